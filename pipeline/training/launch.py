"""The training workers on a Ray cluster, through Ray Train."""

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer

from pipeline.cluster.wait import wait_for_nodes
from pipeline.config.train import ClusterConfig
from pipeline.errors import InputError, RunFailedError
from pipeline.training.monitor import TellMonitor, start_monitor
from pipeline.training.worker import TrainJob, train_worker

_TICK_SECONDS = 0.2
log = logging.getLogger(__name__)


class GraceExceededError(RunFailedError):
    """A run that was asked to stop did not do so in time."""


def job_id() -> str:
    """What the cluster calls this driver."""
    return str(ray.get_runtime_context().get_job_id())


def await_resources(cluster: ClusterConfig) -> None:
    """Return when the connected cluster holds the least number of workers.

    Raises:
        InputError: it does not, and has not grown to it within `cluster.wait_seconds`.
    """
    worker = {"CPU": cluster.cpus_per_worker, "GPU": cluster.gpus_per_worker}
    bundles = [{kind: each for kind, each in worker.items() if each}] * cluster.worker_counts[0]
    wait_for_nodes(lambda: check_resources(cluster), bundles, cluster.wait_seconds)


def check_resources(cluster: ClusterConfig) -> None:
    """Refuse a request that the cluster as it is cannot meet.

    Raises:
        InputError: names what is asked for and what there is.
    """
    there = ray.cluster_resources()
    for kind, each in (("CPU", cluster.cpus_per_worker), ("GPU", cluster.gpus_per_worker)):
        least = cluster.worker_counts[0]
        wanted = each * least
        if wanted > there.get(kind, 0):
            raise InputError(
                f"{least} workers need {wanted:g} {kind}s but the cluster has "
                f"{there.get(kind, 0):g}; lower cluster.workers, add nodes, or let it grow "
                "with cluster.wait_seconds"
            )


def run_training(job: TrainJob, storage_path: str, stop: threading.Event) -> int:
    """Run `train_worker` on every worker until the last step; restart the group on failures.

    Returns the steps done: fewer than asked for if `stop` was set, whereupon the workers save
    their state and leave.

    Raises:
        RunFailedError: more failures than `cluster.max_failures`, or restarts that do not help.
        FloatingPointError: the loss or the gradient is no longer finite.
        InputError: every checkpoint of the run is damaged, or the data have failed.
        GraceExceededError: the workers did not leave in time after `stop` was set.
    """
    cluster = job.config.cluster
    # Ray gives a group this long to find its nodes before it counts anew which are still there,
    os.environ.setdefault(
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(cluster.start_timeout_seconds)
    )
    # and without this a rank waits for ever where all are asked about nodes that leave.
    os.environ.setdefault("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", str(cluster.collective_timeout_seconds))
    monitor = start_monitor()
    result = _in_thread(_trainer(job, storage_path, monitor).fit)
    cut = math.inf
    while not wait([result], timeout=_TICK_SECONDS).done:
        if stop.is_set() and cut == math.inf:
            cut = time.monotonic() + cluster.grace_seconds
            log.info("asked to stop: saving after this step, for %g s", cluster.grace_seconds)
            monitor.request_stop.remote()
        if time.monotonic() > cut:
            raise GraceExceededError(
                f"the workers did not save and leave within cluster.grace_seconds="
                f"{cluster.grace_seconds:g}; the newest checkpoint stays"
            )
    try:
        outcome = result.result().return_value
    except TrainingFailedError as error:
        told = ray.get(monitor.failure.remote()) or str(error)
        raise RunFailedError(f"the workers of {job.config.name} failed for good: {told}") from None
    if isinstance(outcome, Exception):
        raise outcome
    return int(outcome)


def _trainer(job: TrainJob, storage_path: str, monitor: Any) -> TorchTrainer:
    cluster = job.config.cluster
    run = RunConfig(
        name=job.config.name,
        storage_path=storage_path,
        failure_config=FailureConfig(max_failures=cluster.max_failures),
        callbacks=[TellMonitor(monitor)],
    )
    return trainer(train_worker, {"job": job, "monitor": monitor}, cluster, run)


def trainer(
    work: Callable[[dict[str, Any]], Any],
    given: dict[str, Any],
    cluster: ClusterConfig,
    run: RunConfig,
) -> TorchTrainer:
    """A group of workers that each call `work(given)` once `torch.distributed` is set up."""
    gpu = cluster.gpus_per_worker > 0
    resources = {"CPU": cluster.cpus_per_worker} | ({"GPU": cluster.gpus_per_worker} if gpu else {})
    return TorchTrainer(
        work,
        train_loop_config=given,
        torch_config=TorchConfig(
            backend="nccl" if gpu else "gloo", timeout_s=cluster.collective_timeout_seconds
        ),
        scaling_config=ScalingConfig(
            num_workers=cluster.workers, use_gpu=gpu, resources_per_worker=resources
        ),
        run_config=run,
    )


def _in_thread(work: Callable[[], Any]) -> Future[Any]:
    """Call `work` in a daemon thread: the main thread stays free for signals, as Ray leaves it."""
    result: Future[Any] = Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            result.set_exception(error)

    threading.Thread(target=run, name="ray-train", daemon=True).start()
    return result
