"""On an accelerator nothing in a training step's mathematics looks at a value."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from vdm_core import VDM, DownsamplingUNet, MonotoneSchedule
from vdm_core.family import keyed_draws

META = torch.device("meta")  # tensors without values: whoever looks at one gets an error
SHAPE = (1, 8, 8)


@pytest.fixture(autouse=True)
def _without_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such tensors know no autocast, which changes precisions and nothing else."""

    def none(*_: Any, **__: Any) -> Any:
        return nullcontext()

    monkeypatch.setattr(torch, "autocast", none)


def on_meta() -> tuple[VDM, torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    with META:
        network = DownsamplingUNet(1, width=8, multipliers=(1, 2), blocks=1, classes=3)
        vdm = VDM(network, MonotoneSchedule(-13.3, 5.0), schedule_objective="variance")
        images = torch.zeros(4, *SHAPE, dtype=torch.uint8)
        indices = torch.arange(4)
    return vdm, images, indices, keyed_draws(vdm.draws(SHAPE), 0, indices, 4)


def test_draws_terms_and_gradients_need_no_value() -> None:
    """Given a bound on the decoder's radius, from the keyed draws to the backward pass."""
    vdm, images, labels, draws = on_meta()
    vdm(images, labels, **draws, decoder_radius=2).bits_per_dim(64).mean().backward()
    assert all(parameter.grad is not None for parameter in vdm.parameters())


def test_a_look_would_be_an_error() -> None:
    """Without the bound the decoder looks at γ(0)."""
    vdm, images, labels, draws = on_meta()
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        vdm(images, labels, **draws)
