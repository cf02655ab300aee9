"""Small models whose latents can be integrated over exactly, and the numbers to do it with."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vdm_core.ladder import VAE, HierarchicalVAE
from vdm_core.ladder.gaussian import Gaussian
from vdm_core.ladder.pixels import PixelLikelihood

SMALL = {"latent_channels": 1, "widths": (4, 4, 4), "blocks": 1, "levels": 4}


@pytest.fixture
def shake() -> Callable[[nn.Module], nn.Module]:
    """Return a function that moves every parameter somewhat and makes the module float64."""

    def shaken(module: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in module.parameters():
                scale = 0.4 * parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.2
                parameter += scale * torch.randn(parameter.shape, generator=generator)
        return module.double()

    return shaken


@pytest.fixture
def vae(shake: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """A VAE of 4 x 4 images with one latent number."""
    return shake(VAE(1, **SMALL))


class Smooth(nn.Module):
    """Feature maps to a Gaussian, or a likelihood of pixels, as an analytic function of them.

    The networks' group norms have kinks in a latent of one number, at which sums over a grid
    converge slowly.
    """

    def __init__(self, record: type, inputs: int, outputs: int, place: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(place)
        self.record = record
        self.weight = nn.Parameter(0.5 * torch.randn(2, outputs, inputs, generator=generator))

    def forward(self, h: Tensor, labels: Tensor | None) -> object:
        mean, log = (torch.einsum("oi,bihw->bohw", w, h) for w in self.weight)
        if self.record is Gaussian:  # a posterior about as wide as its prior, or sums need tails
            return Gaussian(mean.tanh(), 0.3 * log.tanh())
        return PixelLikelihood(*(value.tanh().expand(-1, -1, 4, 4) for value in (mean, log - 1)))


@pytest.fixture(params=[False, True], ids=["hierarchical", "markovian"])
def hvae(request: pytest.FixtureRequest, shake: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """A hierarchical VAE of 4 x 4 images with three latent numbers and smooth conditionals."""
    model = HierarchicalVAE(1, depth=3, markovian=request.param, **SMALL)
    nets = [*model.posteriors, *model.priors]
    smooth = [Smooth(Gaussian, net.entry.conv.in_channels, 1, k) for k, net in enumerate(nets)]
    model.posteriors, model.priors = nn.ModuleList(smooth[:3]), nn.ModuleList(smooth[3:])
    seen = model.likelihood.entry.conv.in_channels
    model.likelihood = Smooth(PixelLikelihood, seen, 1, len(nets))
    return model.double()


@pytest.fixture
def images() -> Tensor:
    """Four images (4,1,4,4) uint8 of four levels: few, so that their likelihood is smooth in z."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 4, (4, 1, 4, 4), dtype=torch.uint8, generator=generator)
