"""The parts that bfloat16 must not reach: looked at, once, in the model that the engine has made.

Autocast and DeepSpeed are both able to round what they are not meant to. Before a run starts, one
image goes through the engine while every operation of torch is watched. Outside the networks (the
schedule, the decoder, the terms of the ELBO) nothing may be computed in less than float32, and
inside it no normalisation may. The embedding of γ and the Fourier features refuse anything coarser
by themselves, with a TypeError.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from pipeline.training.engine import Engine
from vdm_core.family import keyed_draws

_MOVES = (
    "_to_copy",
    "copy_",
    "empty",
    "view",
    "slice",
    "split",
    "narrow",
    "cat",
    "detach",
    "fill_",
)
"""Beginnings of the names of operations that compute nothing: the engine moves weights in them."""
_NORMS = ("native_group_norm", "native_layer_norm")
"""They return the normalised values, then the mean and the inverse deviation."""


class IslandWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, collects in `found` what is computed too coarsely, as text."""

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []
        self._inside = False
        self._hooks: list[RemovableHandle] = []
        for network in networks:
            self._hooks += [
                network.register_forward_pre_hook(lambda *_: self._enter(True)),
                network.register_forward_hook(lambda *_: self._enter(False)),
            ]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call the operation and look at what went in and came out."""
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        computes = func.namespace == "aten" and not name.startswith(_MOVES)
        if self._inside and name in _NORMS and _is_coarse(result[1:]):
            self.found.append(f"the statistics of {name} inside the network")
        elif not self._inside and computes and _is_coarse((result,)):
            self.found.append(f"{name} outside the network")
        return result

    def close(self) -> None:
        """Take the hooks off the network."""
        for hook in self._hooks:
            hook.remove()

    def _enter(self, inside: bool) -> None:
        self._inside = inside


def check_islands(engine: Engine, shape: tuple[int, int, int], conditional: bool) -> None:
    """Send one image of `shape` (C,H,W), without a class, through the engine and look. Collective.

    Raises:
        RuntimeError: names operations that are computed in less than float32 and must not be.
    """
    images = torch.full((1, *shape), 100, dtype=torch.uint8, device=engine.device)
    index = torch.zeros(1, dtype=torch.int64, device=engine.device)
    labels = index - 1 if conditional else None
    draws = keyed_draws(engine.model.draws(shape), seed=0, indices=index, global_batch=1)
    watch = IslandWatch(engine.model.networks)
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"), watch:
            engine(images, labels, **draws)
    finally:
        watch.close()
    if watch.found:
        listed = ", ".join(sorted(set(watch.found))[:5])
        raise RuntimeError(
            f"computed in less than float32: {listed}. γ and the ELBO would be rounded; this is "
            "an error of the program, or of an option in deepspeed.config"
        )


def _is_coarse(values: Any) -> bool:
    """Whether a tensor in (nested) `values` has a floating type of fewer than 32 bits."""
    if isinstance(values, Tensor):
        return values.is_floating_point() and values.itemsize < 4
    return isinstance(values, list | tuple) and any(map(_is_coarse, values))
