"""Resizing, cropping and flipping against plain indexing; keyed by sample, not by batch."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.config.data import TransformConfig
from pipeline.data.dataset import ShardedDataset
from pipeline.data.stream import TrainingStream, iterate_once
from pipeline.data.transform import augmented, centred, resized, seen_shape
from pipeline.errors import InputError
from vdm_core.rng import Purpose, uniform

MakeDataset = Callable[..., ShardedDataset]
IMAGES = np.random.Generator(np.random.Philox(4)).integers(0, 256, (40, 6, 7, 3), np.uint8)


def test_crops_and_flips_are_those_of_plain_indexing() -> None:
    indices = range(100, 140)
    found = augmented(IMAGES, TransformConfig(crop=5, pad=2, flip=True), 9, indices)
    draws = uniform(9, Purpose.AUGMENT, torch.tensor(indices), (3,)).tolist()
    for image, result, (down, right, mirror) in zip(IMAGES, found, draws, strict=True):
        padded = np.zeros((10, 11, 3), np.uint8)
        padded[2:8, 2:9] = image
        top, left = int(down * 6), int(right * 7)
        wanted = padded[top : top + 5, left : left + 5]
        assert np.array_equal(result, wanted[:, ::-1] if mirror < 0.5 else wanted)


def test_every_corner_occurs_and_half_are_mirrored() -> None:
    ramp = np.broadcast_to(np.arange(6, dtype=np.uint8).reshape(1, 1, 6, 1), (4000, 6, 6, 1))
    found = augmented(ramp, TransformConfig(crop=4, flip=True), 0, range(4000))
    mirrored = found[:, 0, 0, 0] > found[:, 0, -1, 0]
    assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / 4000**0.5
    lefts = np.minimum(found[:, 0, 0, 0], found[:, 0, -1, 0])
    assert np.bincount(lefts).min() > 4000 / 3 - 4 * (4000 * 2 / 9) ** 0.5


def test_an_image_s_augmentation_does_not_depend_on_its_batch() -> None:
    transform = TransformConfig(crop=4, pad=1, flip=True)
    whole = augmented(IMAGES, transform, 1, range(40))
    for rows in (slice(0, 7), slice(7, 40), slice(3, 40, 5)):
        part = augmented(IMAGES[rows], transform, 1, range(40)[rows])
        assert np.array_equal(part, whole[rows])


def test_resizing_takes_the_centre_square() -> None:
    wide = np.arange(4 * 12, dtype=np.uint8).reshape(4, 12, 1)
    assert np.array_equal(resized(wide, 4), wide[:, 4:8])
    colour = IMAGES[0, :, :6]
    wanted = Image.fromarray(colour).resize((3, 3), Image.Resampling.BICUBIC)
    assert np.array_equal(resized(colour, 3), np.asarray(wanted))


def test_the_centre_crop_is_central() -> None:
    assert np.array_equal(centred(IMAGES, 4), IMAGES[:, 1:5, 1:5])


def test_sizes_follow_and_impossible_ones_are_refused() -> None:
    assert seen_shape(TransformConfig(), (3, 6, 7)) == (3, 6, 7)
    assert seen_shape(TransformConfig(resize=9), (3, 6, 7)) == (3, 9, 9)
    assert seen_shape(TransformConfig(resize=9, crop=8, pad=2), (3, 6, 7)) == (3, 8, 8)
    with pytest.raises(InputError, match=r"transform\.crop is 7, the images are 6 x 7"):
        seen_shape(TransformConfig(crop=7, pad=4), (3, 6, 7))
    with pytest.raises(InputError, match=r"transform\.pad needs transform\.crop"):
        seen_shape(TransformConfig(pad=4), (3, 6, 7))


def test_the_stream_s_images_have_the_size_and_evaluation_draws_nothing(
    make_dataset: MakeDataset,
) -> None:
    dataset = make_dataset([12])
    transform = TransformConfig(resize=8, crop=6, pad=1, flip=True)
    stream = TrainingStream(
        dataset, seed=0, global_batch=6, rank=0, world_size=1, micro_batch=6, lanes=1,
        shuffle_window=4, prefetch=0, transform=transform,
    )  # fmt: skip
    for batch in itertools.islice(iter(stream), 4):
        assert batch.images.shape == (6, 1, 6, 6)
        assert batch.valid.all()
    first, again = (list(iterate_once(dataset, batch_size=5, transform=transform)) for _ in "ab")
    assert [batch.images.shape[0] for batch in first] == [5, 5, 2]
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.images, other.images)
    plain = next(iterate_once(dataset, batch_size=1)).images[0, 0].numpy()
    wanted = np.asarray(Image.fromarray(plain).resize((8, 8), Image.Resampling.BICUBIC))[1:7, 1:7]
    assert np.array_equal(first[0].images[0, 0].numpy(), wanted)
