"""An average made from kept ones: as near to the direct one as its card says, or refused."""

import pytest
import torch
from torch import Tensor

from pipeline.errors import InputError
from pipeline.model.post_hoc import KeptAverages, recipe
from vdm_core.ema import ema_start, ema_update
from vdm_core.ema_power import PowerAverage, power_decay, power_exponent

STEPS, WIDTHS = 160, (0.05, 0.1)


def trained() -> tuple[Tensor, dict[PowerAverage, Tensor]]:
    """A path of weights (STEPS, 4) and every average of it that any test wants."""
    noise = torch.Generator().manual_seed(2)
    path = torch.randn(STEPS, 4, generator=noise, dtype=torch.float64).cumsum(0)
    after = {}
    for width in (*WIDTHS, 0.07):
        averages = ema_start([path[0]])
        for step, values in enumerate(path):
            ema_update(averages, [values], power_decay(step, width))
            after[PowerAverage(step + 1, width)] = averages[0].clone()
    return path, after


def kept(after: dict[PowerAverage, Tensor], every: int) -> list[KeptAverages]:
    """What a run that keeps its averages so often can give: a weight, and a fixed number."""

    def at(step: int) -> KeptAverages:
        def read(width: float) -> dict[str, Tensor]:
            average = after[PowerAverage(step, width)].float()
            return {"weight": average, "fixed": torch.tensor([-13.3])}

        return KeptAverages(step, WIDTHS, read)

    return [at(step) for step in range(every, STEPS + 1, every)]


@pytest.mark.parametrize("every", [10, 20, 40])
def test_it_is_as_near_as_its_card_says(every: int) -> None:
    """By Cauchy and Schwarz, from the stated error; what was fixed stays as it is, to the bit."""
    path, after = trained()
    target = PowerAverage(STEPS, 0.07)
    found = recipe(kept(after, every), target)
    made = found.make()
    assert found.record.post_hoc_averages == 2 * STEPS // every
    assert found.record.post_hoc_error is not None
    k = power_exponent(target.width)
    length = (k + 1) / ((2 * k + 1) * STEPS) ** 0.5
    bound = found.record.post_hoc_error * length * (path - path.mean(0)).norm(dim=0)
    assert ((made["weight"] - after[target]).abs() <= bound + 1e-5).all()
    assert (made["weight"] - after[target]).abs().max() > 1e-9  # there is something to bound
    assert torch.equal(made["fixed"], torch.tensor([-13.3]))
    assert made["weight"].dtype == torch.float32


def test_what_came_later_has_no_part_in_it() -> None:
    """The model after step 80 does not change as the run goes on."""
    _, after = trained()
    early = recipe(kept(after, 20)[:4], PowerAverage(80, 0.07))
    late = recipe(kept(after, 20), PowerAverage(80, 0.07))
    assert torch.equal(early.make()["weight"], late.make()["weight"])


def test_widths_out_of_reach_are_refused_before_anything_is_read() -> None:
    def read(width: float) -> dict[str, Tensor]:
        raise AssertionError

    run = [KeptAverages(step, WIDTHS, read) for step in (50, 100)]
    for width in (0.02, 0.2):
        with pytest.raises(InputError, match=rf"ema.width={width}: from 4 kept .* 0\.05, 0\.1"):
            recipe(run, PowerAverage(100, width))
    for nothing in ([], run[1:], [KeptAverages(50, (), read)]):
        with pytest.raises(InputError, match="keeps no power-function average"):
            recipe(nothing, PowerAverage(50, 0.07))
