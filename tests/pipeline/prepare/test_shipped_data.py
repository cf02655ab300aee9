"""The images in the repository are those that its README names."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.prepare.sources.idx import IdxImages, read_idx

DATA = Path(__file__).parents[3] / "data" / "fashion_mnist"
FULL = DATA.parents[2] / "shared" / "data" / "fashion-mnist"


def test_files_have_the_digests_in_the_readme() -> None:
    listed = dict(re.findall(r"`(\S+\.gz)` \| `([0-9a-f]{64})`", (DATA / "README.md").read_text()))
    assert sorted(listed) == sorted(path.name for path in DATA.glob("*.gz"))
    for name, digest in listed.items():
        assert hashlib.sha256((DATA / name).read_bytes()).hexdigest() == digest
    assert "Zalando SE" in (DATA / "LICENSE").read_text()


@pytest.mark.parametrize(("split", "per_class"), [("train", 500), ("t10k", 100)])
def test_every_class_has_the_same_number_of_images(split: str, per_class: int) -> None:
    images = f"{DATA}/{split}-images-idx3-ubyte.gz"
    labels = f"{DATA}/{split}-labels-idx1-ubyte.gz"
    assert IdxImages(images, labels, None).samples == 10 * per_class
    assert read_idx(images, dimensions=3).shape == (10 * per_class, 28, 28)
    assert np.bincount(read_idx(labels, dimensions=1)).tolist() == [per_class] * 10


@pytest.mark.skipif(not FULL.is_dir(), reason=f"the full Fashion-MNIST is not at {FULL}")
@pytest.mark.parametrize(("split", "per_class"), [("train", 500), ("t10k", 100)])
def test_they_are_the_first_of_each_class_in_the_official_order(split: str, per_class: int) -> None:
    pixels = read_idx(f"{FULL}/{split}-images-idx3-ubyte.gz", dimensions=3)
    labels = read_idx(f"{FULL}/{split}-labels-idx1-ubyte.gz", dimensions=1)
    kept = np.sort(np.concatenate([np.flatnonzero(labels == c)[:per_class] for c in range(10)]))
    assert np.array_equal(
        read_idx(f"{DATA}/{split}-images-idx3-ubyte.gz", dimensions=3), pixels[kept]
    )
    assert np.array_equal(
        read_idx(f"{DATA}/{split}-labels-idx1-ubyte.gz", dimensions=1), labels[kept]
    )
