"""Loader processes: the same batches for any number of them, and an end in every case."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from pipeline.config.data import TransformConfig
from pipeline.data.dataset import ShardedDataset
from pipeline.data.loaders import LoaderError
from pipeline.data.stream import TrainingStream
from vdm_core.records import Batch

MakeDataset = Callable[..., ShardedDataset]


def stream(dataset: ShardedDataset, **changes: object) -> TrainingStream:
    settings: dict[str, object] = {
        "seed": 3, "global_batch": 10, "rank": 0, "world_size": 1, "micro_batch": 5, "lanes": 3,
        "shuffle_window": 4, "transform": TransformConfig(crop=3, pad=1, flip=True),
    }  # fmt: skip
    return TrainingStream(dataset, **(settings | changes))  # type: ignore[arg-type]


def take(batches: Iterator[Batch], count: int) -> list[Batch]:
    return list(itertools.islice(batches, count))


def shared_memory() -> set[str]:
    """Names that torch left there; other programs of the machine have theirs."""
    return {name for name in os.listdir("/dev/shm") if name.startswith("torch_")}


@pytest.mark.parametrize("processes", [1, 2])
def test_the_batches_are_the_same_for_any_number_of_processes(
    make_dataset: MakeDataset, processes: int
) -> None:
    """Also from a later start, over the end of epochs, with holes; and nothing is left behind.

    More batches are kept than shared memory has room for: none may be written over.
    """
    dataset = make_dataset([13, 8])
    path = Path(dataset.shards_at.path) / dataset.rows[0].shard
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    before = shared_memory()
    here, beside = stream(dataset, start=10), stream(dataset, start=10, loader_workers=processes)
    for one, other in zip(take(iter(here), 15), take(iter(beside), 15), strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.indices, other.indices)
        assert torch.equal(one.valid, other.valid)
        assert one.labels is not None
        assert other.labels is not None
        assert torch.equal(one.labels, other.labels)
        assert one.keys == other.keys
    here.close()
    beside.close()
    assert set(here.bad_samples) == set(beside.bad_samples) == {"damaged block"}
    assert not multiprocessing.active_children()
    assert shared_memory() <= before


def test_batches_that_are_let_go_make_room_for_others(make_dataset: MakeDataset) -> None:
    """The pixels are handed over where they were decoded, and nothing grows with the run."""
    beside = stream(make_dataset([20]), loader_workers=1, prefetch=2)
    places = [batch.images.data_ptr() for batch in itertools.islice(beside, 40)]
    beside.close()
    assert len(set(places)) <= 3 + 2 + 3  # ordered ahead, prefetched, in hand
    assert not multiprocessing.active_children()


def kill(name: str) -> None:
    """SIGKILL to the loader process of that name, if it is there just now."""
    for process in multiprocessing.active_children():
        if process.name == name and process.pid:
            os.kill(process.pid, signal.SIGKILL)


def test_a_killed_process_is_replaced_and_the_sequence_goes_on(
    make_dataset: MakeDataset, caplog: pytest.LogCaptureFixture
) -> None:
    """Every sample comes once and in order, as in the training process itself."""
    dataset = make_dataset([20])
    here = iter(stream(dataset, prefetch=0))
    beside = stream(dataset, loader_workers=2, prefetch=0)
    batches = iter(beside)
    both = list(zip(take(here, 2), take(batches, 2), strict=True))
    kill("loader-1")
    both += zip(take(here, 20), take(batches, 20), strict=True)
    for one, other in both:
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.indices, other.indices)
        assert one.keys == other.keys
    assert "loader process 1 (pid" in caplog.text
    assert "ended with exit code -9" in caplog.text
    beside.close()
    assert not multiprocessing.active_children()


def test_a_process_that_is_killed_again_and_again_is_an_error(make_dataset: MakeDataset) -> None:
    """No endless replacing: after three in vain it says how they ended; the others end with it."""
    beside = stream(make_dataset([20]), loader_workers=2)
    over = threading.Event()

    def keep_killing() -> None:
        while not over.wait(0.02):
            kill("loader-1")

    killer = threading.Thread(target=keep_killing)
    killer.start()
    try:
        with pytest.raises(LoaderError, match=r"exit code -9.*; so did the 3 that replaced it"):
            next(iter(beside))
    finally:
        over.set()
        killer.join()
    beside.close()
    assert not multiprocessing.active_children()


KILLED = """
import multiprocessing, os, signal, sys
from pipeline.data.stream import TrainingStream, open_dataset
stream = TrainingStream(
    open_dataset(sys.argv[1]), seed=0, global_batch=4, rank=0, world_size=1, micro_batch=4,
    lanes=1, shuffle_window=4, loader_workers=1,
)
next(iter(stream))
print(*[process.pid for process in multiprocessing.active_children()], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_processes_end_with_a_training_process_that_is_killed(make_dataset: MakeDataset) -> None:
    """Nothing tells them: they notice the closed pipe. Standard output ends when they have."""
    folder = make_dataset([20]).folder.path
    done = subprocess.run(
        [sys.executable, "-c", KILLED, folder],
        stdout=subprocess.PIPE,
        check=False,
        timeout=100,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == -signal.SIGKILL
    assert len(done.stdout.split()) == 1


def test_an_unforeseen_error_arrives_with_its_traceback(make_dataset: MakeDataset) -> None:
    """Here: a class count that the code does not expect."""
    dataset = make_dataset([20])
    object.__setattr__(dataset.info, "classes", "three")
    beside = stream(dataset, loader_workers=1)
    with pytest.raises(LoaderError, match=r"(?s)loader process 0 failed:.*TypeError"):
        next(iter(beside))
    beside.close()
