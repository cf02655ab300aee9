"""What a sampler is: a plain generator that walks z along a falling grid of gammas."""

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from vdm_core.denoiser import Denoiser, Gamma

Noise = Callable[[int], Tensor]
"""number of the draw (0 for the first) -> standard normal noise (B,C,H,W)."""

Sampler = Callable[[Denoiser, Tensor, Tensor | None, Tensor, Noise], Iterator[Tensor]]
"""(denoiser, z_1 (B,C,H,W), labels (B,) or None, gammas, noise) -> z_s after each step.

gammas are T+1 falling numbers, float64 on the host, so that coefficients are numbers of the host in
full precision; or T+1 falling maps, (T+1,B,C,H,W) or (T+1,1,C,H,W) in float64, where each pixel has
a gamma of its own. The last z of the T that are yielded is z_0.
"""


def each(values: Tensor, z: Tensor) -> Sequence[Gamma]:
    """The rows of ``values`` as factors of ``z``: numbers of the host, or maps in z's precision."""
    return values.tolist() if values.ndim == 1 else values.to(z).unbind()


def check_numbers(sampler: str, gammas: Tensor) -> None:
    """Raise ValueError, naming ``sampler``, for a grid of maps."""
    if gammas.ndim != 1:
        raise ValueError(
            f"{sampler} walks one gamma for all pixels, and this schedule has one for each: take "
            "ancestral, ddim or pc"
        )
