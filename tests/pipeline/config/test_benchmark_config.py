"""Which trials a benchmark's configuration asks for."""

from typing import Any

import pytest

from pipeline.config.benchmark import BenchmarkConfig
from pipeline.config.load import load_config
from pipeline.config.train import TrainConfig
from pipeline.errors import InputError


def benchmark(tiny: Any, **changes: Any) -> BenchmarkConfig:
    base: TrainConfig = tiny("cluster.workers=4", "data.batch_size=16", "data.micro_batch=2")
    return BenchmarkConfig.model_validate(base.model_dump() | changes)


@pytest.mark.parametrize(
    ("workers", "expected"), [(None, (1, 2, 4)), ((3,), (3, 4)), ((4, 1), (1, 4))]
)
def test_the_run_itself_is_always_measured(tiny: Any, workers: Any, expected: Any) -> None:
    """Counts rise, once each, up to the run's own."""
    config = benchmark(tiny, measure={"workers": workers} if workers else {})
    assert config.worker_counts == expected


def test_each_worker_has_the_same_images_in_every_trial(tiny: Any) -> None:
    """Batch, micro-batch and accumulation of a worker; the largest trial is the run's own."""
    config = benchmark(tiny)
    for count in config.worker_counts:
        trial = config.trial(count)
        assert trial.data.batch_size == 4 * count
        assert (trial.micro_batch, trial.accumulation) == (2, 2)
    assert config.trial(4) == config


def test_the_other_precision(tiny: Any) -> None:
    """There and back; nothing else changes."""
    config = benchmark(tiny)
    assert config.other_precision.deepspeed.precision == "bfloat16"
    assert config.other_precision.other_precision == config


def test_more_workers_than_the_run_has_are_refused(tiny: Any, tmp_path: Any) -> None:
    """With both numbers."""
    tiny()
    with pytest.raises(InputError, match=r"measure.workers has 3, cluster.workers is 1"):
        load_config(BenchmarkConfig, [str(tmp_path / "tiny.yaml")], ["measure.workers=[3]"])
