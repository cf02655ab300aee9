"""DeepSpeed must change where the arithmetic is done, and nothing about its result."""

import math
from typing import Any

import pytest
import torch

from pipeline.config.load import load_config
from pipeline.config.train import TrainConfig

STAGES = (0, 1, 2, 3)
SHAPES = {
    "linear": ["model.schedule.gamma_0=-8"],
    "monotone": [
        "model.schedule.kind=monotone",
        "model.schedule.objective=variance",
        "optimizer.gradient_clipping=0",
        "optimizer.learning_rate=1e-3",
    ],
    "fixed": ["model.schedule.learned=false", "data.micro_batch=4"],
    "bfloat16": ["deepspeed.precision=bfloat16"],
    "multivariate": ["model.schedule.kind=multivariate", "optimizer.learning_rate=1e-3"],
    "adaptive": [
        "model.schedule={kind: adaptive, latent_dim: 3, width: 4}",
        "optimizer.learning_rate=1e-3",
    ],
}
AT_TWO_STAGES = ("fixed", "multivariate", "adaptive")
CASES = [(s, k) for k in SHAPES for s in STAGES if k not in AT_TWO_STAGES or s in (1, 3)]


@pytest.fixture(scope="module")
def runs(launch: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two gloo ranks that train every configuration below at every ZeRO stage."""
    folder = tmp_path_factory.mktemp("engine")
    base = [
        "name=engine",
        f"root={folder}",
        "seed=5",
        "steps=20",
        "data={train: none, batch_size: 8, micro_batch: 2}",
        "cluster.workers=2",
        "model.network={kind: downsampling_unet, width: 8, multipliers: [1, 2], blocks: 1}",
        "model.drop_label=0.3",
        "optimizer={learning_rate: 1e-2, warmup_steps: 3}",
        "optimizer.ema=[{decay: 0.9}, {width: 0.05}, {width: 0.2}]",
        "optimizer.gradient_clipping=0.5",
    ]
    configs = {
        f"{stage} {shape}": load_config(
            TrainConfig, [], [*base, *overrides, f"deepspeed.zero_stage={stage}"]
        )
        for stage, shape in CASES
        for overrides in [SHAPES[shape]]
    }
    return launch("engine_ranks", 2, folder, **configs)


@pytest.mark.parametrize(("stage", "shape"), [case for case in CASES if case[1] != "bfloat16"])
def test_equals_plain_pytorch(runs: Any, stage: int, shape: str) -> None:
    """Losses, gradient norms and weights equal one process with AdamW on whole batches."""
    run, plain = runs[f"{stage} {shape}"], runs[f"reference {shape}"]
    assert run["losses"] == pytest.approx(plain["losses"], rel=1e-5)
    assert run["norms"] == pytest.approx(plain["norms"], rel=1e-4)
    assert max(plain["norms"]) > 0.5  # the clipping has something to clip
    for name, weights in plain["weights"].items():
        torch.testing.assert_close(run["weights"][name], weights, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("stage", STAGES)
def test_every_average_equals_one_process(runs: Any, stage: int) -> None:
    """The shares' averages, gathered, are those of the whole parameters, in float64."""
    run, plain = runs[f"{stage} linear"], runs["reference linear"]
    assert set(run["ema"]) == {"decay_0.9", "width_0.05", "width_0.2"}
    for average, tensors in plain["ema"].items():
        for name, expected in tensors.items():
            given = run["ema"][average][name].double()
            torch.testing.assert_close(given, expected, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("stage", STAGES)
def test_gamma_stays_float32_under_bfloat16(runs: Any, stage: int) -> None:
    """-13.3 is not a bfloat16 number: the schedule must not be cast with the network."""
    run = runs[f"{stage} bfloat16"]
    assert run["gamma"].tolist() == torch.tensor([-13.3, 5.0]).tolist()
    assert run["dtypes"] == {"torch.float32"}
    assert all(map(math.isfinite, run["losses"]))


@pytest.mark.parametrize(("stage", "shape"), CASES)
def test_continues_bit_for_bit(runs: Any, stage: int, shape: str) -> None:
    """A fresh engine that loads a checkpoint has the same next losses, to the last bit.

    With stage 3 under bfloat16 DeepSpeed gathers what autocast will round anyway in bfloat16, but
    has float32 after a load: the same to the resolution of bfloat16 sums only.
    """
    run = runs[f"{stage} {shape}"]
    if (stage, shape) == (3, "bfloat16"):
        assert run["resumed"] == pytest.approx(run["undisturbed"], rel=1e-3)
    else:
        assert run["resumed"] == run["undisturbed"]
    assert run["resumed"][0] != run["losses"][0]
    assert run["same_averages"]


@pytest.mark.parametrize(("stage", "shape"), CASES)
def test_fragments_cover_every_parameter_exactly_once(runs: Any, stage: int, shape: str) -> None:
    """The ranks' shares of weights and moments are a partition of them at every stage."""
    for kind, counts in runs[f"{stage} {shape}"]["coverage"].items():
        assert all(bool((count == 1).all()) for count in counts.values()), kind


@pytest.mark.parametrize(("stage", "shape"), CASES)
def test_gathers_a_whole_state_dict(runs: Any, stage: int, shape: str) -> None:
    """Every key of the model is there, a fixed schedule's ends included."""
    run = runs[f"{stage} {shape}"]
    assert sorted(run["weights"]) == run["state_keys"]


@pytest.mark.parametrize("stage", STAGES)
def test_moments_equal_one_process(runs: Any, stage: int) -> None:
    """Adam's moments, gathered from the fragments, are those of plain PyTorch.

    A vanishing gradient is rounding, which Adam blows up to whole steps: parameters that have one
    may differ by a small part of all moments together.
    """
    run, plain = runs[f"{stage} linear"], runs["reference linear"]
    for kind, moments in plain["moments"].items():
        least = 1e-4 * sum(moment.norm() for moment in moments.values())
        for name, moment in moments.items():
            found = run["moments"][kind][name]
            assert (found - moment).norm() <= 1e-2 * moment.norm() + least, (kind, name)


@pytest.mark.parametrize("stage", STAGES)
def test_rates_by_group(runs: Any, stage: int) -> None:
    """The groups keep their names through DeepSpeed, and every gradient was finite."""
    run = runs[f"{stage} linear"]
    assert run["rates"] == pytest.approx(
        {"kernels": 1e-2, "norms_and_biases": 1e-2, "schedule": 1e-2}
    )
    assert run["finite"]
