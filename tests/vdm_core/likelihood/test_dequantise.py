"""Dequantisation against scipy's distributions."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from vdm_core.decoder import encode
from vdm_core.likelihood import dequantise

IMAGES = torch.full((500, 1, 2, 4), 3, dtype=torch.uint8)
INDICES = torch.arange(500)


@pytest.mark.parametrize(("levels", "gamma_0"), [(256, -13.3), (8, -5.0), (8, 2.0), (256, -25.0)])
def test_truncated_normals_have_the_law_and_density_of_the_diffused_pixel_in_its_bin(
    levels: int, gamma_0: float
) -> None:
    y, log_q = dequantise(
        IMAGES, INDICES, levels, gamma_0, kind="truncated_normal", dtype=torch.float64
    )
    scale = math.exp(gamma_0 / 2)
    law = stats.truncnorm(-1 / levels / scale, 1 / levels / scale, scale=scale)
    offset = (y - encode(IMAGES, levels, torch.float64)).numpy()
    assert np.abs(offset).max() < 1 / levels
    assert stats.kstest(offset.flatten(), law.cdf).pvalue > 0.001
    np.testing.assert_allclose(log_q, law.logpdf(offset).sum((1, 2, 3)), rtol=1e-9)


def test_uniforms_fill_the_bin_evenly() -> None:
    y, log_q = dequantise(IMAGES, INDICES, 8, -5.0, kind="uniform", dtype=torch.float64)
    offset = (y - encode(IMAGES, 8, torch.float64)).numpy().flatten()
    assert stats.kstest(offset, stats.uniform(-1 / 8, 1 / 4).cdf).pvalue > 0.001
    torch.testing.assert_close(log_q, torch.full((500,), 8 * math.log(4.0), dtype=torch.float64))


def test_draws_belong_to_the_index_and_the_number_of_the_draw() -> None:
    def draw(indices: torch.Tensor, number: int) -> torch.Tensor:
        images = IMAGES[: len(indices)]
        return dequantise(images, indices, 256, -13.3, kind="uniform", draw=number).y

    assert torch.equal(draw(INDICES[:5], 1)[3:], draw(INDICES[3:5], 1))
    assert not torch.equal(draw(INDICES[:5], 1), draw(INDICES[:5], 0))


def test_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"'gauss': give one of uniform, truncated_normal"):
        dequantise(IMAGES, INDICES, 256, -13.3, kind="gauss")  # type: ignore[arg-type]
