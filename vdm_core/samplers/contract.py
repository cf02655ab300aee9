"""What a sampler is: a plain generator that walks z along a falling grid of gammas."""

from collections.abc import Callable, Iterator

from torch import Tensor

from vdm_core.denoiser import Denoiser

Noise = Callable[[int], Tensor]
"""number of the draw (0 for the first) -> standard normal noise (B,C,H,W)."""

Sampler = Callable[[Denoiser, Tensor, Tensor | None, Tensor, Noise], Iterator[Tensor]]
"""(denoiser, z_1 (B,C,H,W), labels (B,) or None, gammas, noise) -> z_s after each step.

gammas are T+1 falling numbers, float64 on the host, so that coefficients are numbers of the host in
full precision. The last z of the T that are yielded is z_0.
"""
