"""Shards of samples: functions of model, sample ids and settings, readable by everyone.

The actor's class is called directly; how actors share the work is tested with a real cluster.
"""

import gc
import hashlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset

from pipeline.config.model import DownsamplingUNetConfig, ModelConfig
from pipeline.config.sample import SampleConfig
from pipeline.data.dataset import ShardedDataset, open_dataset
from pipeline.data.decode import decode_image
from pipeline.data.stream import iterate_once
from pipeline.errors import InputError
from pipeline.model.build import build_vdm
from pipeline.model.export import WEIGHTS, ModelCard, export_bytes, load_card
from pipeline.sampling.generate import ShardGenerator
from pipeline.sampling.sample_set import finish_samples, plan_identity, plan_shards
from pipeline.storage import open_storage

SHAPE, CLASSES = (1, 8, 8), 3
NETWORK = DownsamplingUNetConfig(kind="downsampling_unet", width=8, multipliers=(1, 2), blocks=1)
Draw = Callable[..., ShardedDataset]


def export(folder: Path, seed: int = 0, **model) -> str:
    """A model with random weights, its last layer too, so that noise, time and label all matter."""
    config = ModelConfig(network=NETWORK, **model)
    vdm = build_vdm(config, SHAPE, CLASSES, seed=seed, levels=256)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for parameter in vdm.network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    card = ModelCard(
        model=config, shape=SHAPE, levels=256, classes=CLASSES, class_names=("a", "b", "c"),
        step=1, run="toy", mlflow_run_id=None, dataset_digest="",
    )  # fmt: skip
    for name, data in export_bytes(vdm.state_dict(), card).items():
        (open_storage(str(folder)) / name).write_bytes(data)
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return export(tmp_path_factory.mktemp("model"))


@pytest.fixture
def draw(tmp_path: Path, model: str) -> Draw:
    """draw("name", setting=…): draw a whole set as the job would, with one actor."""

    def samples(name: str, model: str = model, reverse: bool = False, **changes) -> ShardedDataset:
        asked = {"per_class": 5, "steps": 3, "guidance_scale": 2.0, "samples_per_shard": 6}
        config = SampleConfig(model=model, output=name, root=str(tmp_path), **(asked | changes))
        card, output = load_card(open_storage(model)), open_storage(str(tmp_path / name))
        tasks, generator = plan_shards(config, card), ShardGenerator(config, model)
        for task in reversed(tasks) if reverse else tasks:
            assert generator(asdict(task)) == [
                {"shard": task.shard, "samples": task.stop - task.start}
            ]
        finish_samples(output, tasks, plan_identity(config, card), card)
        return open_dataset(output.url)

    return samples


def contents(dataset: ShardedDataset) -> tuple[torch.Tensor, list[int] | None, list[str]]:
    """Pixels, labels and keys of the whole set, through our own stream."""
    (batch,) = iterate_once(dataset, batch_size=dataset.info.samples)
    keys = [key.rpartition("/")[2] for key in batch.keys]
    return batch.images, None if batch.labels is None else batch.labels.tolist(), keys


def digests(dataset: ShardedDataset) -> list[str]:
    return [row.sha256 for row in dataset.rows]


def test_every_class_has_its_number_of_images_and_every_shard_all_classes(draw):
    dataset = draw("s", per_class=6)
    assert dataset.label_counts == (6, 6, 6)
    assert all(len(row.label_counts) == CLASSES for row in dataset.rows)
    assert dataset.info.class_names == ("a", "b", "c")


def test_only_the_wanted_classes_are_drawn(draw):
    dataset = draw("s", classes=(2, 0), per_class=4)
    assert dataset.label_counts == (4, 0, 4)


def test_shards_are_byte_for_byte_the_same_in_any_order_of_making(draw):
    """An actor that takes the shards in another order, or after a restart, makes the same files."""
    assert digests(draw("s")) == digests(draw("t", reverse=True))


def test_batch_size_changes_neither_ids_nor_labels_nor_pixels(draw):
    """Up to the rounding of batched kernels: at most one level in a few pixels."""
    images, labels, keys = contents(draw("s", batch_size=1))
    for size in (4, 7, 64):
        others, other_labels, other_keys = contents(draw(f"s{size}", batch_size=size))
        assert (other_labels, other_keys) == (labels, keys)
        difference = (others.int() - images.int()).abs()
        assert difference.max() <= 1
        assert (difference > 0).float().mean() < 0.05


def test_a_sample_depends_on_its_id_and_not_on_its_shard(draw):
    images, labels, keys = contents(draw("s", samples_per_shard=6, batch_size=3))
    others = contents(draw("t", samples_per_shard=15, batch_size=3))
    assert torch.equal(others[0], images)
    assert others[1:] == (labels, keys)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"steps": 4},
        {"sampler": "ddim"},
        {"sampler": "pc"},
        {"guidance_scale": 1.0},
        {"gamma_interval": (-13.0, 0.0)},
        {"clip": "static"},
    ],
)
def test_every_setting_reaches_the_pixels(draw, change):
    assert not torch.equal(contents(draw("s", **change))[0], contents(draw("t"))[0])


@pytest.mark.parametrize("kind", ["multivariate", "adaptive"])
def test_a_schedule_with_a_gamma_for_each_pixel_is_sampled(draw, tmp_path, kind):
    """A fresh one is a straight line at every pixel: its set is that of the linear schedule."""
    model = export(tmp_path / "per pixel", schedule={"kind": kind})
    images, labels, keys = contents(draw("s", model=model))
    expected = contents(draw("t"))
    assert (images.int() - expected[0].int()).abs().max() <= 1
    assert (labels, keys) == expected[1:]


def test_labels_reach_the_pixels(draw):
    """The same ids drawn as another class give other images."""
    assert not torch.equal(
        contents(draw("s", classes=(0,)))[0], contents(draw("t", classes=(1,)))[0]
    )


def test_an_unconditional_model_gives_an_unlabelled_set(draw, tmp_path):
    dataset = draw("s", model=export(tmp_path / "plain", conditional=False), guidance_scale=1.0)
    images, labels, _ = contents(dataset)
    assert (len(images), labels, dataset.info.classes) == (5, None, None)


@pytest.mark.filterwarnings(
    # webdataset leaves its shards to the garbage collector
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::ResourceWarning",
)
def test_plain_webdataset_reads_the_shards(draw, tmp_path):
    """Any WebDataset reader finds key, PNG, class and provenance of each sample."""
    images, labels, keys = contents(draw("s"))
    shards = sorted(str(path) for path in (tmp_path / "s").glob("shard-*.tar"))
    seen = list(webdataset.WebDataset(shards, shardshuffle=False))
    gc.collect()
    assert [sample["__key__"] for sample in seen] == keys == [f"{k:09d}" for k in range(15)]
    assert [int(sample["cls"]) for sample in seen] == labels
    pixels = np.stack([decode_image(sample["png"], SHAPE) for sample in seen])
    assert np.array_equal(pixels, images.numpy())
    assert seen[4]["json"] == b'{"guidance_scale": 2.0, "id": 4, "seed": 0}'


def test_tampered_weights_are_refused(draw, tmp_path):
    folder = Path(export(tmp_path / "m"))
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    assert hashlib.sha256(data).hexdigest() != load_card(open_storage(str(folder))).weights_sha256
    with pytest.raises(InputError, match="does not match the digest"):
        draw("s", model=str(folder))
