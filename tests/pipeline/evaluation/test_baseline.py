"""The i.i.d.-pixel baseline against a direct computation."""

import numpy as np
import pytest
import torch

from pipeline.data.dataset import open_dataset
from pipeline.data.stream import iterate_once
from pipeline.evaluation.baseline import iid_pixel_bits, pixel_counts


def all_pixels(dataset) -> np.ndarray:
    return torch.cat([b.images for b in iterate_once(dataset, batch_size=4)]).numpy().ravel()


def test_the_histogram_counts_every_pixel(pack, tmp_path):
    dataset = open_dataset(pack(tmp_path / "set"))
    expected = np.bincount(all_pixels(dataset), minlength=256)
    assert pixel_counts(dataset).tolist() == expected.tolist()


def test_cross_entropy_is_that_of_numpy_with_one_more_of_each_level(pack, tmp_path):
    """Other images than those the histogram was fitted on; levels it never saw cost finitely."""
    fitted = open_dataset(pack(tmp_path / "few", samples=2))
    data = open_dataset(pack(tmp_path / "more", samples=24))
    counts = np.bincount(all_pixels(fitted), minlength=256) + 1.0
    assert (counts == 1).any(), "some levels are unseen"
    expected = -np.log2(counts / counts.sum())[all_pixels(data)].mean()
    assert iid_pixel_bits(fitted, data) == pytest.approx(expected, rel=1e-12)
