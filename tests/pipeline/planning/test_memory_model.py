"""The model of memory: by hand, by conservation, and byte for byte against the real engine."""

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from pipeline.config.family import AnyModelConfig
from pipeline.config.model import ScheduleConfig, ScheduledClassifierConfig
from pipeline.config.train import TrainConfig
from pipeline.model.build import build_schedule, check_model
from pipeline.model.given import FrozenSchedule
from pipeline.planning.activations import LiveBytes, PassMemory, pass_memory
from pipeline.planning.fits import passes_of
from pipeline.planning.memory import Sharding, device_memory, sharding_of
from pipeline.training.trained import Trained
from vdm_core.networks import DiT, flops_per_image

PASSES = PassMemory(growing=700, without=500)
SHAPE, CLASSES = (1, 8, 8), 3


def trained(config: TrainConfig) -> Trained:
    """The configured model on tiny images."""
    return Trained(config.model, SHAPE, CLASSES, 256)


def test_live_bytes_of_two_layers_by_hand() -> None:
    """Two linear layers without bias, a sigmoid between; 4 rows of 8, 16 and 2 numbers."""
    first, second = nn.Linear(8, 16, bias=False), nn.Linear(16, 2, bias=False)
    x = torch.zeros(4, 8)
    with LiveBytes([x, first.weight, second.weight]) as live:
        hidden = torch.sigmoid(first(x))
        assert live.now == 4 * 4 * 16  # what the sigmoid takes is gone
        assert live.peak == 2 * 4 * 4 * 16
        out = second(hidden)
        assert live.now == 4 * (4 * 16 + 4 * 2)
        del out, hidden
    assert live.now == 0


@pytest.mark.parametrize("stage", range(4))
def test_the_workers_together_hold_the_state_once(stage: Any) -> None:
    """Averages at all stages, the optimizer from stage 1 on, the weights at stage 3."""
    one = device_memory(1000, PASSES, Sharding(stage, 1, 2, 1))
    many = device_memory(1000, PASSES, Sharding(stage, 8, 2, 1))
    assert 8 * many.averages == one.averages == 8000
    assert many.optimizer == (one.optimizer if stage == 0 else one.optimizer / 8)
    assert many.weights == (one.weights / 8 if stage == 3 else one.weights)


def test_bytes_of_each_stage_by_hand() -> None:
    """1000 parameters, 4 workers, 2 averages, buckets of 10 elements of 4 bytes."""
    memories = [device_memory(1000, PASSES, Sharding(s, 4, 2, 1, bucket=10)) for s in range(4)]
    assert [m.held for m in memories] == [14000, 9000, 9000, 1000 + 3000 + 2000 + 1040]
    assert [m.passes for m in memories] == [700, 700 + 1000 + 40, 1000 + 500 + 40, 8000 + 500]
    assert [m.update for m in memories] == [8000, 2000, 2000, 1000]
    assert memories[0].peak == 22000
    accumulating = device_memory(1000, PASSES, Sharding(0, 4, 2, accumulation=3))
    assert accumulating.passes == 4500
    offloaded = device_memory(1000, PASSES, Sharding(2, 4, 2, 1, bucket=10, offload=True))
    assert (offloaded.held, offloaded.update) == (4000, 0)


def test_arithmetic_of_a_published_network() -> None:
    """DiT-XL/2 at 32 x 32 x 4 takes 118.6 billion multiplications (Peebles and Xie 2023)."""
    with torch.device("meta"):
        network = DiT(channels=4, width=1152, depth=28, heads=16, patch=2, classes=1000)
    assert flops_per_image(network, (4, 32, 32)) == pytest.approx(2 * 118.6e9, rel=0.03)


def test_a_larger_micro_batch_takes_more_in_proportion(tiny: Any) -> None:
    """What 48 images take follows from 16 and 32; bfloat16 takes less."""
    config = tiny()
    sizes = (16, 32, 48)
    peaks = [passes_of(config, trained(config), images).without for images in sizes]
    assert peaks[2] - peaks[1] == pytest.approx(peaks[1] - peaks[0], rel=0.01)
    half = passes_of(tiny("deepspeed.precision=bfloat16"), trained(config), 48)
    assert half.without < 0.9 * peaks[2]


@pytest.mark.parametrize("kind", ["monotone", "multivariate", "adaptive"])
def test_a_schedule_with_more_to_do_takes_more(kind: Any, tiny: Any) -> None:
    """Whatever the loss computes beside the network is watched with it."""
    config = tiny()
    model = config.model.model_copy(update={"schedule": ScheduleConfig(kind=kind)})
    plain = pass_memory(trained(config), 16, bfloat16=False)
    other = pass_memory(trained(config.model_copy(update={"model": model})), 16, bfloat16=False)
    assert other.without > plain.without


def test_a_classifier_on_a_frozen_schedule_is_watched(tiny: Any) -> None:
    """What it takes grows with its width; the schedule's real weights are no obstacle."""
    schedule = ScheduleConfig()
    weights = build_schedule(schedule, SHAPE).state_dict()
    given = FrozenSchedule(weights, "", "a run", SHAPE, 256, CLASSES, schedule)

    def taken(width: int) -> int:
        model = ScheduledClassifierConfig.model_validate(
            {"kind": "classifier", "of": "a run", "network": {"width": width}}
        )
        return pass_memory(Trained(model, SHAPE, CLASSES, 256, given), 16, bfloat16=False).without

    assert 1.5 * taken(32) < taken(64) < 2.5 * taken(32)


@pytest.mark.parametrize(
    "model",
    [
        {"kind": "vae"},
        {"kind": "hvae", "depth": 2},
        {"kind": "mhvae", "depth": 2},
        {"kind": "latent_vdm", "vae": {"kind": "vae"}, "network": {"kind": "unet", "width": 32}},
    ],
    ids=lambda model: model["kind"],
)
def test_every_family_is_watched(model: dict[str, Any]) -> None:
    """Twice the images take about twice as much, and no family needs its weights for it."""
    config = TypeAdapter(AnyModelConfig).validate_python(model)
    family = Trained(config, (1, 16, 16), CLASSES, 256)
    taken = [pass_memory(family, images, bfloat16=False).without for images in (32, 64)]
    assert 1.5 * taken[0] < taken[1] < 2.1 * taken[0]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_the_real_engine_takes_what_the_model_says(
    workers: int, launch: Any, tiny: Any, tmp_path: Any
) -> None:
    """Held between steps within 1 %, the peak of a step within 6 %, of real ranks over gloo."""
    common = (
        "data.batch_size=16",
        "model.network={kind: downsampling_unet, width: 32, multipliers: [1, 2], blocks: 1}",
        f"cluster.workers={workers}",
    )
    zero = "deepspeed.config={zero_optimization: {reduce_bucket_size: 50000, %s}}"
    small = zero % "stage3_param_persistence_threshold: 100"
    configs = {
        (stage, precision): tiny(
            *common,
            f"deepspeed.zero_stage={stage}",
            f"deepspeed.precision={precision}",
            *([small] if stage else []),
        )
        for stage in range(4)
        for precision in ("float32", "bfloat16")
    }
    measured = launch("memory_ranks", workers, tmp_path / "ranks", **named(configs))
    for case, config in configs.items():
        found = measured[name(case)]
        parameters = check_model(config.model, SHAPE, CLASSES, 256)
        passes = passes_of(config, trained(config), config.micro_batch)
        memory = device_memory(parameters, passes, sharding_of(config, workers))
        assert found["held"] == pytest.approx(memory.held, rel=0.01), case
        assert found["peak"] == pytest.approx(memory.peak, rel=0.06), case


def name(case: tuple[int, str]) -> str:
    return f"stage_{case[0]}_{case[1]}"


def named(configs: dict[tuple[int, str], Any]) -> dict[str, Any]:
    return {name(case): config for case, config in configs.items()}
