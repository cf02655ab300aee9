"""What a model takes: images, labels and noise of the right types and shapes, or an error."""

from __future__ import annotations

import torch
from torch import Tensor


def check_images(images: Tensor, levels: int) -> None:
    """Raise TypeError unless ``images`` are uint8, ValueError unless they are (B,C,H,W) and, on the
    CPU, below ``levels``.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"images are {images.dtype}: give uint8 in [0, {levels})")
    if images.ndim != 4 or images.numel() == 0:
        raise ValueError(f"images have shape {tuple(images.shape)}: give a non-empty (B,C,H,W)")
    if levels < 256 and images.device.type == "cpu" and images.max() >= levels:
        raise ValueError(f"images reach {images.max()}: with {levels} levels, stay below {levels}")


def check_label_shape(labels: Tensor | None, batch: int) -> None:
    """Raise ValueError unless ``labels`` are None or (B,) int64, B = ``batch``."""
    if labels is None:
        return
    if labels.shape != (batch,) or labels.dtype != torch.int64:
        raise ValueError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)}: give int64 of ({batch},)"
        )


def check_noise(noise: Tensor, name: str, shape: tuple[int, ...]) -> None:
    """Raise ValueError, by ``name``, unless ``noise`` has this ``shape``."""
    if noise.shape != shape:
        raise ValueError(f"{name} has shape {tuple(noise.shape)}: give {shape}")


def check_times(times: Tensor, batch: int) -> None:
    """Raise ValueError unless ``times`` are (batch,) floats and, on the CPU, in [0, 1]."""
    if times.shape != (batch,) or not times.is_floating_point():
        raise ValueError(
            f"times are {times.dtype} of shape {tuple(times.shape)}: give floats of ({batch},)"
        )
    if times.device.type == "cpu" and (~((times >= 0) & (times <= 1))).any():
        raise ValueError(f"times range over [{times.min()}, {times.max()}]: stay inside [0, 1]")
