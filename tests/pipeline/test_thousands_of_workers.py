"""Nothing that the driver, a worker or the storage does grows worse with workers than it must.

What is counted are requests and bytes as an object store would see them; `docs/scale.md` has the
times. The code that runs is that of real jobs, for one simulated worker after the other.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from counted_store import Requests, counted
from simulated_cluster import (
    commit_all,
    draw_all,
    find_newest,
    read_share,
    sample_plan,
    save_for,
    stream,
    write_images,
    write_parts,
)

from pipeline.checkpoint.record import INDEX
from pipeline.checkpoint.retention import tidy
from pipeline.config.train import CheckpointConfig
from pipeline.data import dataset as dataset_module
from pipeline.data.dataset import ShardedDataset, open_dataset
from pipeline.data.order import reads_per_sample
from pipeline.sampling.finish import finish_set
from pipeline.sampling.output_folder import finished_shards
from pipeline.storage import Location, open_storage

SIZES = {f"block.{n}.weight": 640 for n in range(40)}


@pytest.fixture
def run(tmp_path: Path) -> tuple[Location, Requests]:
    """A run's folder in a storage that counts."""
    return counted(open_storage(str(tmp_path / "run")))


def saved(run: Location, ranks: int, stage: int, sizes: dict[str, int], step: int = 1) -> None:
    """One checkpoint, from the ranks' files to the commit."""
    save = save_for(run, ranks, step)
    write_parts(save, stage, sizes)
    commit_all(save, stage, sizes, step)


@pytest.mark.parametrize("stage", [2, 3])
def test_a_commit_asks_once_for_each_rank(run: tuple[Location, Requests], stage: int) -> None:
    """It reads a record of each rank, lists two folders and writes four files, of any size."""
    place, requests = run
    for ranks in (1, 16, 64):
        save = save_for(place, ranks, ranks)
        write_parts(save, stage, SIZES)
        assert requests.take().writes == 2 * ranks
        commit_all(save, stage, SIZES, ranks)
        asked = requests.take()
        assert (asked.reads, asked.pages, asked.looks, asked.writes) == (ranks, 2, 0, 3)


def test_the_index_does_not_list_ranks_times_parameters(run: tuple[Location, Requests]) -> None:
    """At stage 3 a rank adds some bytes to it, and so does a parameter, but not their product."""
    place, _ = run

    def size(ranks: int, parameters: int) -> int:
        sizes = {f"p{n:04d}": 128 for n in range(parameters)}
        saved(place, ranks, 3, sizes, step=1000 * ranks + parameters)
        found = (save_for(place, ranks, 1000 * ranks + parameters).folder / INDEX).size()
        assert found is not None
        return found

    few, more = size(8, 10), size(64, 10)
    with_parameters, both = size(8, 100), size(64, 100)
    assert both - more == with_parameters - few
    assert (more - few) / 56 < 100  # bytes of a rank


@pytest.mark.parametrize("stage", [2, 3])
def test_a_rank_reads_no_more_than_its_share(run: tuple[Location, Requests], stage: int) -> None:
    """Beside index and buffers one file, however many ranks there are."""
    place, requests = run
    for ranks in (2, 16, 64):
        saved(place, ranks, stage, SIZES, ranks)
        requests.take()
        folder, record = find_newest(place)
        found = requests.take()
        assert found.pages + found.looks + found.reads <= 4  # run, newest commit, its folder
        read_share(folder, record, stage, SIZES, ranks - 1, ranks)
        asked = requests.take()
        assert asked.reads == 2
        own = record.files[f"rank-{ranks - 1:05d}.life.safetensors"].bytes
        assert asked.read_bytes == own + record.files[INDEX].bytes


def test_tidying_costs_the_same_with_many_checkpoints_kept(run: tuple[Location, Requests]) -> None:
    """What stays for ever is read once in the life of a run's workers, not at every save."""
    place, requests = run
    config, seen = CheckpointConfig(keep=1, keep_every=1), dict[str, Any]()
    asked = []
    for step in range(1, 13):
        saved(place, 4, 2, SIZES, step)
        requests.take()
        tidy(place, save_for(place, 4, step).folder.path.rpartition("/")[2], config, seen)
        asked.append(requests.take())
    assert asked[2] == replace(asked[-1], read_bytes=asked[2].read_bytes)
    assert asked[-1].reads == 1


@pytest.fixture
def images(tmp_path: Path) -> tuple[ShardedDataset, Requests]:
    """1,024 images in 8 shards and blocks of 8, in a storage that counts."""
    folder = open_storage(str(tmp_path / "images"))
    write_images(folder, shards=8, samples=128, block_samples=8)
    opened = open_dataset(folder.url)
    place, requests = counted(folder)
    return replace(opened, folder=place, shards_at=place), requests


def test_lanes_for_every_worker_read_each_block_about_once(
    images: tuple[ShardedDataset, Requests],
) -> None:
    """With a lane for each worker the reads do not grow with the workers; with too few they do, up
    to a window for each image."""
    dataset, requests = images

    def reads(workers: int, lanes: int) -> int:
        seen = stream(dataset, workers, range(workers), lanes=lanes, window=16, batch=64)
        assert seen == 1024
        return requests.take().reads

    enough = [reads(workers, 64) for workers in (1, 8, 64)]
    assert enough == [enough[0]] * 3
    few = {workers: reads(workers, 4) for workers in (4, 16, 64)}
    for workers, read in few.items():
        times = reads_per_sample(workers, lanes=4, shuffle_window=16)
        assert read == pytest.approx(times * few[4], rel=0.02)


def test_a_worker_opens_a_set_without_a_look_at_every_shard(
    images: tuple[ShardedDataset, Requests], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Description, manifest, and one page of a listing for up to a thousand shards."""
    dataset, requests = images
    monkeypatch.setattr(dataset_module, "open_storage", lambda url: dataset.folder)
    assert len(open_dataset("counted").rows) == 8
    asked = requests.take()
    assert (asked.pages, asked.looks + asked.reads) == (1, asked.total - 1)
    assert asked.total <= 5


def test_a_sample_set_asks_once_for_each_shard(
    run: tuple[Location, Requests],
) -> None:
    """Planning asks for nothing; going on and finishing read a record of each shard."""
    place, requests = run
    for actors in (4, 32):
        plan = sample_plan(place / f"{actors}", actors, each=8)
        tasks = plan.tasks()
        assert len(tasks) == actors
        assert [plan.rows.rows(t.start, t.stop).ids[0] for t in tasks] == [t.start for t in tasks]
        assert requests.take().total == 0
        draw_all(plan, "digest")
        requests.take()
        done = finished_shards(plan.output, "digest")
        assert len(done) == actors
        assert (asked := requests.take()).reads == actors
        assert asked.total <= actors + 2
        finish_set(plan, done)
        assert requests.take().reads <= actors + 1
