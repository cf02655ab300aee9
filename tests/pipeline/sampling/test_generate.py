"""Shards of samples: functions of model, rows and settings, whoever draws them and in what order.

The actor's class is called directly; how actors share the work is tested with a real cluster.
"""

import logging
import resource
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.data.dataset import open_dataset
from pipeline.errors import InputError
from pipeline.model.export import WEIGHTS
from pipeline.sampling.draw import Claimed
from pipeline.sampling.generate import ShardGenerator
from pipeline.sampling.output_folder import PLAN
from pipeline.sampling.plan import load_for, plan_set
from pipeline.sampling.sample_set import SampleSet

CLASSES = 3


def pixels(samples: SampleSet) -> np.ndarray:
    """(N,C,H,W) of the whole set."""
    return samples.images(range(len(samples)))


def column(samples: SampleSet, name: str) -> list:
    return samples.manifest([name])[name].to_pylist()


def digests(samples: SampleSet) -> list[str]:
    return [row.sha256 for row in samples.shards]


def generator_of(config):
    plan = plan_set(config, load_for(config))
    claimed = Claimed(plan, 0)
    return claimed, ShardGenerator([claimed.cell()], plan.model.place.url)


def test_every_class_has_its_number_of_images_and_every_shard_all_classes(draw):
    samples = draw("s", per_class=6)
    assert column(samples, "class") == [0, 1, 2] * 6
    assert all(len(row.label_counts) == CLASSES for row in samples.shards)
    assert samples.info.class_names == ("a", "b", "c")


def test_only_the_wanted_classes_are_drawn_in_the_wanted_numbers(draw):
    assert column(draw("s", classes=(2, 0), per_class=3), "class") == [2, 0, 2, 0, 2, 0]
    counts = draw("t", counts={1: 4, 0: 1})
    assert sorted(column(counts, "class")) == [0, 1, 1, 1, 1]


def test_shards_are_byte_for_byte_the_same_in_any_order_of_making(draw):
    """An actor that takes the shards in another order, or after a restart, makes the same files."""
    assert digests(draw("s")) == digests(draw("t", reverse=True))


def test_batch_size_changes_neither_ids_nor_labels_nor_pixels(draw):
    """Up to the rounding of batched kernels: at most one level in a few pixels."""
    first = draw("s", batch_size=1)
    for size in (4, 7, 64):
        other = draw(f"s{size}", batch_size=size)
        assert column(other, "id") == column(first, "id")
        assert column(other, "class") == column(first, "class")
        difference = np.abs(pixels(other).astype(int) - pixels(first))
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.05


def test_a_sample_depends_on_its_id_and_not_on_its_shard(draw):
    first = draw("s", samples_per_shard=6, batch_size=3)
    other = draw("t", samples_per_shard=15, batch_size=3)
    assert column(other, "sha256") == column(first, "sha256")


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
    assert column(draw("s", **change), "sha256") != column(draw("t"), "sha256")


@pytest.mark.parametrize("kind", ["multivariate", "adaptive"])
def test_a_schedule_with_a_gamma_for_each_pixel_is_sampled(draw, tmp_path, export, kind):
    """A fresh one is a straight line at every pixel: its set is that of the linear schedule."""
    samples = draw("s", model=export(tmp_path / "per pixel", schedule={"kind": kind}))
    difference = np.abs(pixels(samples).astype(int) - pixels(draw("t")))
    assert difference.max() <= 1


def test_labels_reach_the_pixels(draw):
    """The same ids drawn as another class give other images."""
    zero, one = draw("s", classes=(0,)), draw("t", classes=(1,))
    assert column(zero, "id") == column(one, "id")
    assert not set(column(zero, "sha256")) & set(column(one, "sha256"))


def test_an_unconditional_model_gives_a_set_without_labels(draw, tmp_path, export):
    plain = export(tmp_path / "plain", conditional=False)
    samples = draw("s", model=plain, guidance_scale=1.0)
    assert column(samples, "class") == [-1] * 5
    assert (samples.info.classes, open_dataset(samples.folder.url).info.classes) == (None, None)


def write_requests(file: Path, **columns) -> str:
    pq.write_table(pa.table(columns), file)
    return str(file)


def test_each_request_is_drawn_with_its_own_id_class_scale_and_seed(draw, tmp_path):
    """A row with the settings of a plain set's sample gives that sample, wherever it stands."""
    file = write_requests(
        tmp_path / "requests.parquet",
        id=[4, 9, 2, 70_000_000_000],
        **{"class": [1, 0, 2, 1]},
        guidance_scale=[2.0, 1.0, 2.0, 3.5],
        seed=[0, 5, 0, 2**62],
    )
    samples = draw("s", requests=file, samples_per_shard=3, batch_size=2)
    assert column(samples, "id") == [4, 9, 2, 70_000_000_000]
    assert column(samples, "guidance_scale") == [2.0, 1.0, 2.0, 3.5]
    assert column(samples, "seed") == [0, 5, 0, 2**62]
    plain = pixels(draw("t")).astype(int)  # id k has class k mod 3, seed 0 and scale 2
    mine = pixels(samples)
    for row, number in ((0, 4), (2, 2)):
        assert np.abs(mine[row] - plain[number]).max() <= 1
    other = pixels(draw("u", guidance_scale=1.0, seed=5, per_class=4))
    assert np.abs(mine[1].astype(int) - other[9]).max() <= 1


def test_requests_without_scale_and_seed_take_those_of_the_job(draw, tmp_path):
    file = write_requests(tmp_path / "r.parquet", id=[0, 1, 2], **{"class": [0, 1, 2]})
    samples = draw("s", requests=file, seed=7, guidance_scale=3.0)
    plain = draw("t", per_class=1, seed=7, guidance_scale=3.0)
    assert column(samples, "sha256") == column(plain, "sha256")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
def test_a_compiled_network_draws_the_same_images(draw):
    """Up to rounding."""
    asked = {"per_class": 2, "samples_per_shard": 3, "guidance_scale": 1.0}  # batches of one size
    compiled = pixels(draw("s", compile=True, **asked))
    difference = np.abs(pixels(draw("t", **asked)).astype(int) - compiled)
    assert difference.max() <= 1


def test_tampered_weights_are_refused(draw, tmp_path, export):
    folder = Path(export(tmp_path / "m"))
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    with pytest.raises(InputError, match="does not match the digest"):
        draw("s", model=str(folder))


# Out of memory: a network that asks the real allocator for 2^50 bytes when a batch is too large.


def limit_batches(generator: ShardGenerator, largest: int) -> None:
    def hook(module, arguments):
        if len(arguments[0]) > largest:
            torch.empty(2**50, dtype=torch.uint8)

    generator.model.network.register_forward_pre_hook(hook)


def test_too_large_a_batch_is_halved_once_and_said_aloud(request_of, draw, caplog):
    claimed, generator = generator_of(request_of("s", batch_size=6))
    limit_batches(generator, 6)  # guided, so the network sees twice the batch
    with caplog.at_level(logging.WARNING):
        for task in claimed.missing:
            generator(asdict(task))
    assert [record.getMessage().split(" on ")[0] for record in caplog.records] == [
        "out of memory at batch_size=6"
    ]
    assert "goes on with 3" in caplog.text
    small = draw("t", batch_size=3)
    names = [row.shard for row in small.shards]
    mine = [(claimed.plan.output / name).read_bytes() for name in names]
    assert mine == [(small.folder / name).read_bytes() for name in names]


def test_out_of_memory_twice_is_an_error_that_names_both_sizes(request_of):
    claimed, generator = generator_of(request_of("s", batch_size=6))
    limit_batches(generator, 1)
    with pytest.raises(InputError, match=r"batch_size=6, and again at 3, on CPU.*lower batch_size"):
        generator(asdict(claimed.missing[0]))
    assert not [name for name in claimed.plan.output.files() if name.startswith("shard")]


def test_a_batch_of_one_cannot_be_halved(request_of):
    claimed, generator = generator_of(request_of("s", batch_size=1))
    limit_batches(generator, 0)
    with pytest.raises(InputError, match="out of memory at batch_size=1 on CPU"):
        generator(asdict(claimed.missing[0]))


def test_another_error_of_the_network_is_not_taken_for_memory(request_of):
    claimed, generator = generator_of(request_of("s"))
    generator.model.network.register_forward_pre_hook(lambda *_: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        generator(asdict(claimed.missing[0]))


def test_an_actor_does_not_write_into_a_folder_that_another_job_has_taken(request_of):
    claimed, generator = generator_of(request_of("s"))
    (claimed.plan.output / PLAN).write_bytes(b'{"of": "another job"}')
    with pytest.raises(InputError, match="another job has taken the folder"):
        generator(asdict(claimed.missing[0]))
    assert claimed.plan.output.files(recursive=True) == [PLAN]


@pytest.fixture
def full_disk():
    """with full_disk(): no file of this process can grow beyond 4 KiB."""

    @contextmanager
    def limited():
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


def test_of_a_shard_that_the_disk_cannot_hold_nothing_is_visible(request_of, draw, full_disk):
    """No shard, no row, no half a file; with room again the set is as if nothing had been."""
    claimed, generator = generator_of(request_of("s"))
    with full_disk(), pytest.raises(InputError, match=r"cannot write .* check free space"):
        generator(asdict(claimed.missing[0]))
    assert claimed.plan.output.files(recursive=True) == [PLAN]
    assert digests(draw("s")) == digests(draw("t"))
