"""Parts of a model that are given and do not change: their parameters become constants."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def freeze(module: Module) -> Module:
    """Make every parameter of ``module`` a constant (a buffer) of the same name and value.

    An optimizer, a moving average and ZeRO see parameters only: to all of them it is then a part of
    the model that does not change. Its state dict stays as it was. Returns ``module``.
    """
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, parameter.detach())
    return module
