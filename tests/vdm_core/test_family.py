"""Every family keeps one contract: declared draws in, named terms in nats out."""

import inspect
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vdm_core import (
    VAE,
    VDM,
    AdaptiveSchedule,
    HierarchicalVAE,
    LatentVDM,
    LinearSchedule,
)
from vdm_core.family import Draw, Family, keyed_draws
from vdm_core.rng import Purpose, normal, stratified_times

SHAPE = (1, 8, 4)
SMALL = {"latent_channels": 2, "widths": (4, 4)}


class Identity(nn.Module):
    """The smallest of networks."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, z: Tensor, gamma: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.scale * z


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "vdm": lambda: VDM(Identity(), LinearSchedule()),
    "adaptive": lambda: VDM(Identity(), AdaptiveSchedule(SHAPE, latent_dim=3, width=4)),
    "vae": lambda: VAE(1, **SMALL),
    "hvae": lambda: HierarchicalVAE(1, **SMALL),
    "mhvae": lambda: HierarchicalVAE(1, markovian=True, **SMALL),
    "latent_vdm": lambda: LatentVDM(VAE(1, **SMALL), VDM(Identity(), LinearSchedule(-8.0, 5.0))),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_declared_draws_are_all_that_a_family_needs_and_its_terms_add_up(name: str) -> None:
    model: Family = FAMILIES[name]()  # type: ignore[assignment]
    images = torch.randint(0, 256, (6, *SHAPE), dtype=torch.uint8)
    draws = keyed_draws(model.draws(SHAPE), 3, torch.arange(12, 18), 6)
    torch.manual_seed(0)
    terms = model(images, None, decoder_radius=255, **draws)
    torch.manual_seed(1)
    again = model(images, None, decoder_radius=255, **draws)
    assert torch.equal(terms.total, again.total), "something else was drawn"
    assert tuple(terms.named()) == model.term_names
    torch.testing.assert_close(terms.total, torch.stack([*terms.named().values()]).sum(0))
    torch.testing.assert_close(terms.bits_per_dim(32), terms.total / (32 * math.log(2)))
    known = inspect.signature(type(model).forward).parameters  # type: ignore[attr-defined]
    assert model.draws(SHAPE).keys() <= known.keys()


def test_draws_are_keyed_by_seed_purpose_and_index() -> None:
    """Recorded runs can be drawn again: these are the keys of the VDM's training noise."""
    indices = torch.tensor([40, 41, 7])
    vdm = VDM(Identity(), LinearSchedule())
    draws = keyed_draws(vdm.draws(SHAPE), 5, indices, 8)
    assert torch.equal(draws["times"], stratified_times(5, indices, 8))
    assert torch.equal(draws["noise"], normal(5, Purpose.NOISE, indices, SHAPE))
    assert torch.equal(draws["noise_0"], normal(5, Purpose.NOISE_0, indices, SHAPE))
    double = keyed_draws({"e": Draw(Purpose.ENCODER, (2,))}, 5, indices, 8, torch.float64)["e"]
    assert torch.equal(double, normal(5, Purpose.ENCODER, indices, (2,), dtype=torch.float64))
