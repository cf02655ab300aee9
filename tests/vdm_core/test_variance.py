"""The shape of the schedule descends E[L^2], and nothing else notices."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vdm_core import VDM, DownsamplingUNet, LinearSchedule, MonotoneSchedule
from vdm_core.variance import VarianceGradient

DIMS = 16


@pytest.fixture
def make_vdm(perturbed: Callable[[nn.Module], nn.Module]) -> Callable[..., VDM]:
    """make_vdm(objective, steps=None, dtype=torch.float64): always the same weights."""

    def make(objective: str, steps: int | None = None, dtype: torch.dtype = torch.float64) -> VDM:
        network = perturbed(DownsamplingUNet(1, width=8, multipliers=(1, 2)))
        schedule = MonotoneSchedule(units=32)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in schedule.warp.parameters():
                parameter += 0.5 * torch.randn(parameter.shape, generator=generator)
        return VDM(network, schedule, steps=steps, schedule_objective=objective).to(dtype)

    return make


def draws(batch: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(2, batch, 1, 4, 4, generator=generator, dtype=torch.float64)
    return {
        "images": torch.randint(256, (batch, 1, 4, 4), generator=generator, dtype=torch.uint8),
        "times": torch.rand(batch, generator=generator, dtype=torch.float64),
        "noise": noise[0],
        "noise_0": noise[1],
    }


def gradients(vdm: VDM, micro_batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Of the mean bits/dim over all examples, as a training step accumulates it."""
    examples = sum(len(batch["images"]) for batch in micro_batches)
    for batch in micro_batches:
        (vdm(**batch).bits_per_dim(DIMS).sum() / examples).backward()
    return {name: parameter.grad for name, parameter in vdm.named_parameters()}


def two_pass_shape_gradients(vdm: VDM, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """mean(2 L_i dL_i / d shape), example by example with autograd alone."""
    losses = vdm(**batch).diffusion / (DIMS * math.log(2))
    shape = dict(vdm.schedule.warp.named_parameters(prefix="schedule.warp"))
    sums = {name: torch.zeros_like(parameter) for name, parameter in shape.items()}
    for loss in losses:
        parts = torch.autograd.grad(loss, list(shape.values()), retain_graph=True)
        for name, part in zip(shape, parts, strict=True):
            sums[name] += 2 * loss.detach() * part / len(losses)
    return sums


def relative_error(value: Tensor, expected: Tensor) -> float:
    return ((value - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("steps", [None, 10], ids=["continuous", "10 steps"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=["f64", "f32"]
)
def test_shape_gradient_is_that_of_the_mean_squared_loss(make_vdm, steps, dtype, tolerance):
    expected = two_pass_shape_gradients(make_vdm("elbo", steps), draws())
    found = gradients(make_vdm("variance", steps, dtype), [draws()])
    assert expected
    for name, gradient in expected.items():
        assert relative_error(found[name].double(), gradient) < tolerance, name


@pytest.mark.parametrize("steps", [None, 10], ids=["continuous", "10 steps"])
def test_network_and_ends_get_their_ordinary_gradient_to_the_last_bit(make_vdm, steps):
    ordinary = gradients(make_vdm("elbo", steps, torch.float32), [draws()])
    found = gradients(make_vdm("variance", steps, torch.float32), [draws()])
    assert {"schedule.ends.end_0", "schedule.ends.end_1"} <= set(found)
    for name, gradient in ordinary.items():
        assert torch.equal(found[name], gradient) != name.startswith("schedule.warp."), name


def test_terms_do_not_depend_on_the_objective(make_vdm):
    for one, other in zip(
        make_vdm("elbo")(**draws()), make_vdm("variance")(**draws()), strict=True
    ):
        assert torch.equal(one, other)


def test_accumulated_micro_batches_equal_one_batch(make_vdm):
    """L belongs to one example: how examples are grouped does not matter."""
    whole = gradients(make_vdm("variance"), [draws()])
    parts = [{name: value[i : i + 2] for name, value in draws().items()} for i in (0, 2, 4)]
    for name, gradient in gradients(make_vdm("variance"), parts).items():
        assert relative_error(gradient, whole[name]) < 1e-10, name


def test_two_forward_passes_may_precede_their_backward_passes(make_vdm):
    """Each pass keeps factors of its own."""
    vdm, other = make_vdm("variance"), draws(4)
    expected = gradients(make_vdm("variance"), [draws()])
    terms, _ = vdm(**draws()), vdm(**other)
    terms.bits_per_dim(DIMS).mean().backward()
    for name, parameter in vdm.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])


def test_fixed_times_and_other_losses_give_the_shape_nothing():
    """Without `weigh`, as with the reconstruction and prior at times 0 and 1, the factor is 0."""
    r = torch.rand(5, requires_grad=True)
    seen = r * 1.0
    gradient = VarianceGradient()
    gradient.watch(seen, seen.square())
    gradient.weigh(torch.tensor([1.0, 2.0, 3.0]), dims=1)
    seen.sum().backward()
    torch.testing.assert_close(r.grad, torch.tensor([0.0, 0, 2, 4, 6]) / math.log(2))


def test_evaluation_without_gradients_works(make_vdm):
    with torch.no_grad():
        assert make_vdm("variance")(**draws()).total.isfinite().all()


def test_an_objective_without_anything_to_train_is_refused():
    network = DownsamplingUNet(1, width=8, multipliers=(1,))
    with pytest.raises(ValueError, match="LinearSchedule has no shape to learn"):
        VDM(network, LinearSchedule(), schedule_objective="variance")
    with pytest.raises(ValueError, match="unknown schedule_objective 'vlb'"):
        VDM(network, MonotoneSchedule(), schedule_objective="vlb")
