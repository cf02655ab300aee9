"""The training workers on a Ray cluster, through Ray Train."""

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from pipeline.config.train import ClusterConfig
from pipeline.errors import InputError
from pipeline.training.worker import TrainJob, train_worker


def check_resources(cluster: ClusterConfig) -> None:
    """Refuse a request that the connected cluster can never meet.

    Raises:
        InputError: names what is asked for and what there is.
    """
    there = ray.cluster_resources()
    for kind, each in (("CPU", cluster.cpus_per_worker), ("GPU", cluster.gpus_per_worker)):
        wanted = each * cluster.workers
        if wanted > there.get(kind, 0):
            raise InputError(
                f"{cluster.workers} workers need {wanted:g} {kind}s but the cluster has "
                f"{there.get(kind, 0):g}; lower cluster.workers or add nodes"
            )


def run_training(job: TrainJob, storage_path: str) -> None:
    """Run `train_worker` on every worker until the last step; restart the group on failures.

    Raises:
        ray.train.TrainingFailedError: more failures than `cluster.max_failures`.
        FloatingPointError: the loss or the gradient is no longer finite.
        InputError: every checkpoint of the run is damaged.
    """
    cluster = job.config.cluster
    gpu = cluster.gpus_per_worker > 0
    resources = {"CPU": cluster.cpus_per_worker} | ({"GPU": cluster.gpus_per_worker} if gpu else {})
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=cluster.workers, use_gpu=gpu, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=job.config.name,
            storage_path=storage_path,
            failure_config=FailureConfig(max_failures=cluster.max_failures),
        ),
    )
    hopeless = trainer.fit().return_value
    if hopeless is not None:
        raise hopeless
