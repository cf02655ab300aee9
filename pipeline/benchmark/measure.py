"""One trial on one rank: the parts of training, each alone, then together.

Every function here is collective. Ranks begin each repetition together, and its time is that of
the slowest.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import torch
import torch.distributed as dist

from pipeline.benchmark.records import StepTiming, Timing, Trial
from pipeline.checkpoint.fragment import MOMENTS, WEIGHTS
from pipeline.config.benchmark import BenchmarkConfig
from pipeline.data.stream import TrainingStream
from pipeline.model.export import RunCard
from pipeline.model.family import Given, build_family
from pipeline.storage import Location
from pipeline.training.agreement import Word
from pipeline.training.averages import Averages, start_averages, update_averages
from pipeline.training.checkpoint import Checkpoints, Progress
from pipeline.training.compute_cost import compute_cost
from pipeline.training.engine import Engine
from pipeline.training.figures import Report
from pipeline.training.interval import IntervalMeter
from pipeline.training.loop import LoopState, step_settings, train
from pipeline.training.phase_timer import Phase
from pipeline.training.step import train_step
from vdm_core.records import Batch

OpenStream = Callable[[], TrainingStream]
_PHASES: tuple[Phase, ...] = ("forward", "backward", "optimizer", "average")


class Bench:
    """An engine with its averages, and the ways to time it."""

    def __init__(
        self,
        config: BenchmarkConfig,
        card: RunCard,
        device: torch.device,
        given: Given = None,
    ) -> None:
        """Build the model and wrap it; `torch.distributed` must be initialised before."""
        self.config, self.card, self.device = config, card, device
        model = build_family(
            config.model, card.shape, card.classes, config.seed, card.levels, given
        )
        self.cost = compute_cost(model, card.shape, config, device, 1)
        self.engine = Engine(model, config, device)
        self.averages = start_averages(config.optimizer.ema, self.engine.weights())

    def compute(self, batches: list[Batch]) -> StepTiming:
        """A step on the same micro-batches again and again."""
        meter = IntervalMeter(self.engine.model.term_names, self.device)
        settings = step_settings(self.engine, self.config, self.card.dims)

        def step() -> None:
            train_step(self.engine, batches, settings, meter)
            weights = self.engine.weights()
            update_averages(self.averages, self.config.optimizer.ema, 0, weights)
            meter.mark("average")

        def begin(repeat: int) -> None:
            if repeat == 1:
                meter.bring_together()  # what warmed up is not counted
            self._synchronise()
            meter.mark("agreement")

        timing = self._repeated(step, begin)
        interval = meter.bring_together()
        steps = self.config.measure.steps * self.config.measure.repeats
        return StepTiming(
            precision=self.config.deepspeed.precision,
            step=timing,
            phases={phase: interval.seconds[phase] / steps for phase in _PHASES},
        )

    def loader(self, batches: Iterator[Batch]) -> Timing:
        """Taking the micro-batches of a step from the stream, and nothing else."""
        return self._repeated(lambda: self.micro_batches(batches))

    def micro_batches(self, batches: Iterator[Batch]) -> list[Batch]:
        """This rank's micro-batches of a step."""
        return [next(batches) for _ in range(self.config.accumulation)]

    def both(self, stream: TrainingStream) -> Timing:
        """A step of the training loop: stream, step, averages, agreement, reports to nobody."""
        measure = self.config.measure
        changes = {
            "steps": measure.steps * (1 + measure.repeats),
            "tracking": self.config.tracking.model_copy(update={"log_every": measure.steps}),
        }
        config, listener = self.config.model_copy(update=changes), _Listener()
        state = LoopState(0, self.averages)
        train(self.engine, iter(stream), config, self.card.dims, state, listener, _NoSignals())
        return Timing(seconds=tuple(listener.step_seconds[1:]))

    def all_reduce(self) -> Timing | None:
        """Adding a gradient's worth of float32 up over all ranks; None for one rank."""
        if dist.get_world_size() == 1:
            return None
        size = sum(shape.numel() for shape in self.engine.shapes.values())
        gradient = torch.zeros(size, device=self.device)
        return self._repeated(lambda: dist.all_reduce(gradient))

    def checkpoint(self, folder: Location) -> tuple[Timing, Timing]:
        """(stall, whole save) of checkpoints into `folder`."""
        stalls, saves = [], []
        with Checkpoints(folder, self.config, self.card) as checkpoints:
            for number in range(1 + self.config.measure.repeats):
                dist.barrier()
                began = time.perf_counter()
                progress = Progress(number, number * self.config.data.batch_size)
                checkpoints.save(self.engine, self.averages, progress, bits_per_dim=0.0)
                stalls.append(time.perf_counter() - began)
                checkpoints.settle()
                saves.append(time.perf_counter() - began)
        return self._slowest(stalls[1:]), self._slowest(saves[1:])

    @property
    def state_bytes(self) -> int:
        """The size of a checkpoint's tensors, all ranks together."""
        kinds = len((WEIGHTS, *MOMENTS)) + len(self.averages)
        return kinds * sum(4 * shape.numel() for shape in self.engine.shapes.values())

    def _repeated(
        self, work: Callable[[], object], begin: Callable[[int], object] | None = None
    ) -> Timing:
        """Seconds of one `work`: the mean of each repetition, without the first.

        `begin` is called before repetition 0, 1, …; by default the ranks meet there.
        """
        measure, found = self.config.measure, []
        for repeat in range(1 + measure.repeats):
            if begin is None:
                self._synchronise()
            else:
                begin(repeat)
            began = time.perf_counter()
            for _ in range(measure.steps):
                work()
            self._wait_for_device()
            found.append((time.perf_counter() - began) / measure.steps)
        return self._slowest(found[1:])

    def _synchronise(self) -> None:
        self._wait_for_device()
        dist.barrier()

    def _wait_for_device(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _slowest(self, seconds: list[float]) -> Timing:
        times = torch.tensor(seconds, dtype=torch.float64, device=self.device)
        dist.all_reduce(times, dist.ReduceOp.MAX)
        return Timing(seconds=tuple(times.tolist()))


def run_trial(bench: Bench, open_stream: OpenStream, folder: Location) -> Trial:
    """Everything about this number of workers; checkpoints go into `folder`."""
    config, device = bench.config, bench.device
    load = torch.tensor(os.getloadavg()[0] / (os.cpu_count() or 1), device=device)
    dist.all_reduce(load, dist.ReduceOp.MAX)
    with closing(open_stream()) as stream:
        batches = iter(stream)
        resident = bench.micro_batches(batches)
        loader = bench.loader(batches)
    compute = bench.compute(resident)
    with closing(open_stream()) as stream:
        both = bench.both(stream)
    stall, save = bench.checkpoint(folder)
    return Trial(
        workers=dist.get_world_size(),
        global_batch=config.data.batch_size,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        load=float(load),
        compute=compute,
        loader=loader,
        both=both,
        all_reduce=bench.all_reduce(),
        stall=stall,
        save=save,
    )


class _Listener:
    """A `Reporter` that keeps the seconds a step of each interval."""

    def __init__(self) -> None:
        self.step_seconds: list[float] = []

    def metrics(self, step: int, engine: Engine, figures: Report) -> None:
        self.step_seconds.append(figures.values["train/step_seconds"])

    def pictures(self, step: int, engine: Engine, averages: Averages) -> None: ...

    def checkpoint(
        self, step: int, engine: Engine, averages: Averages, values: dict[str, float]
    ) -> None: ...

    def snapshot(
        self, step: int, engine: Engine, averages: Averages, values: dict[str, float]
    ) -> None: ...


class _NoSignals:
    """Nothing reaches this loop from outside."""

    def word(self, step: int) -> Word:
        return Word.GO_ON

    def node_leaves(self) -> bool:
        return False
