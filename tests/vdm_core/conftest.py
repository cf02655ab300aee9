"""Weights for tests: a new network is the identity, which hides most of what could be wrong."""

from collections.abc import Callable

import pytest
import torch
from torch import nn


@pytest.fixture
def perturbed() -> Callable[[nn.Module], nn.Module]:
    """Return a function that fills every parameter with small random numbers, in place."""

    def perturb(module: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in module.parameters():
                scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
        return module

    return perturb
