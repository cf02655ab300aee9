"""State goes into any number of files and comes out for any other number of readers."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from pipeline.checkpoint import read, record
from pipeline.checkpoint.fragment import Fragment
from pipeline.checkpoint.rank_file import RankFile
from pipeline.checkpoint.read import (
    CheckpointReader,
    DamagedError,
    Wanted,
    open_checkpoint,
    wrong_size,
)
from pipeline.checkpoint.record import COMMIT, CheckpointRecord, FileRecord, committed
from pipeline.checkpoint.share import Share
from pipeline.checkpoint.write import AbandonedError, Save, commit, write_part
from pipeline.errors import InputError
from pipeline.storage import Location, open_storage

SHAPES = {"a.weight": (3, 5), "b": (1,), "c.bias": (7, 1, 4)}
KINDS = ("weights", "exp_avg", "ema/ema")
SIZES = {name: torch.Size(shape).numel() for name, shape in SHAPES.items()}
TOTAL, WHOLE = sum(SIZES.values()), Share(0, 1)
HEAD = CheckpointRecord(
    step=3,
    next_index=24,
    optimizer_steps=3,
    bits_per_dim=4.0,
    world_size=1,
    zero_stage=0,
    config_sha256="",
    files={},
)
STATE = {
    kind: {
        name: torch.randn(shape, generator=torch.Generator().manual_seed(9 * k + n))
        for n, (name, shape) in enumerate(SHAPES.items())
    }
    for k, kind in enumerate(KINDS)
}


def fragments(values: dict[str, torch.Tensor], first: int, end: int) -> list[Fragment]:
    """What elements first, …, end - 1 of all parameters in a row are of each parameter."""
    found, at = [], 0
    for name, value in values.items():
        low, high = max(first - at, 0), min(end - at, value.numel())
        if low < high:
            found.append(Fragment(name, low, value.view(-1)[low:high]))
        at += value.numel()
    return found


def split(cuts: list[int]) -> list[tuple[int, int]]:
    """The ranges between the cuts."""
    return list(pairwise([0, *sorted(cuts), TOTAL]))


def others(files: dict[str, FileRecord]) -> dict[str, bytes]:
    return {"buffers.x.safetensors": b"\x08\0\0\0\0\0\0\0{}      "}


Cut = Callable[[dict[str, torch.Tensor]], list[list[Fragment]]]
"""The state of one kind -> the fragments of each rank."""


def at(cuts: list[int]) -> Cut:
    """All parameters in a row, cut at these elements."""
    return lambda state: [fragments(state, first, end) for first, end in split(cuts)]


def even(ranks: int) -> Cut:
    """Each parameter cut into equal parts."""

    def share(state: dict[str, torch.Tensor], rank: int) -> list[Fragment]:
        ranges = Share(rank, ranks).ranges(SIZES)
        return [Fragment(n, at, state[n].view(-1)[at : at + length]) for n, at, length in ranges]

    return lambda state: [share(state, rank) for rank in range(ranks)]


def store(folder: Location, cut: Cut, life: str = "x") -> CheckpointRecord:
    """A checkpoint of a cut state; its commit."""
    ranks = cut(STATE["weights"])
    save = Save(folder, life, len(ranks), patience=0)
    for rank, layout in enumerate(ranks):
        file = RankFile(KINDS, layout, SIZES, Share(rank, len(ranks)), pinned=False)
        file.fill([f.tensor for k in KINDS for f in cut(STATE[k])[rank]])
        write_part(save, rank, file.content(), file.layout)
    commit(save, HEAD, SHAPES, KINDS, others, Event())
    return committed(Location(folder.filesystem, *[str(Path(folder.path).parent)] * 2))[0][1]


@pytest.fixture
def folder(tmp_path: Path) -> Location:
    return open_storage(str(tmp_path / "checkpoint_000000003"))


@settings(max_examples=40, deadline=None)
@given(
    written=st.lists(st.integers(0, TOTAL), max_size=5).map(at) | st.integers(1, 9).map(even),
    wanted=st.lists(st.integers(0, TOTAL), max_size=5),
    piece=st.sampled_from([8, 60, 4096]),
)
def test_any_ranks_to_any_ranks(
    tmp_path_factory: pytest.TempPathFactory, written: Cut, wanted: list[int], piece: int
) -> None:
    """However the state was cut when written, and into whatever digested pieces, each new rank
    reads exactly its elements of each kind."""
    folder = open_storage(str(tmp_path_factory.mktemp("run") / "checkpoint_000000003"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "PIECE", piece)
        patch.setattr(read, "PIECE", piece)
        store(folder, written)
        reader = open_checkpoint(folder)
        for kind in KINDS:
            for first, end in split(wanted):
                expected = fragments(STATE[kind], first, end)
                empty = [f._replace(tensor=torch.full_like(f.tensor, 7.0)) for f in expected]
                reader.fill([Wanted(kind, fragment) for fragment in empty])
                for found, original in zip(empty, expected, strict=True):
                    assert torch.equal(found.tensor, original.tensor)
            for name, value in reader.whole(kind).items():
                assert torch.equal(value, STATE[kind][name])


def test_a_file_is_plain_safetensors(folder: Location) -> None:
    """Any reader of safetensors can open a rank's file; names say what each tensor is."""
    written = store(folder, at([10]))
    (name,) = [n for n in written.files if n.startswith("rank-00000")]
    found = load_file(Path(folder.path) / name)
    assert torch.equal(found["weights/a.weight[0:10]"], STATE["weights"]["a.weight"].view(-1)[:10])
    assert torch.equal(found["ema/ema/a.weight[0:10]"], STATE["ema/ema"]["a.weight"].view(-1)[:10])
    assert open_checkpoint(folder).averages == ["ema"]


def test_a_share_of_everything_is_said_in_two_numbers(folder: Location) -> None:
    """No list of fragments, and a tensor for each kind with the parameters in a row."""
    written = store(folder, even(4))
    layouts = open_checkpoint(folder).index.files
    assert [layout.share for layout in layouts.values()] == [(n, 4) for n in range(4)]
    assert not any(layout.fragments for layout in layouts.values())
    (name,) = [n for n in written.files if n.startswith("rank-00003")]
    found = load_file(Path(folder.path) / name)  # elements 12 to 14 of 15, none of 1, 21 to 27
    values = STATE["exp_avg"]
    expected = [values["a.weight"].view(-1)[12:], values["c.bias"].view(-1)[21:]]
    assert set(found) == set(KINDS)
    assert torch.equal(found["exp_avg"], torch.cat(expected))


def test_the_same_memory_serves_every_save() -> None:
    """A second fill replaces the first in place: a save allocates nothing."""
    layout = fragments(STATE["weights"], 0, TOTAL)
    file = RankFile(("weights",), layout, SIZES, WHOLE, pinned=False)
    file.fill([f.tensor for f in layout])
    first, address = bytes(file.content()), file._buffer.data_ptr()
    file.fill([2 * f.tensor for f in layout])
    assert bytes(file.content()) != first
    assert file._buffer.data_ptr() == address


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped bit": (flip, "has changed after it was written"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-4]), "has fewer than"),
    "missing": (Path.unlink, "is missing"),
}


@pytest.mark.parametrize("file", ["rank-00001.*.safetensors", "index.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_named(folder: Location, file: str, damage: str) -> None:
    """No byte is used that was not compared with its digest."""
    written = store(folder, at([10]))
    (path,) = Path(folder.path).glob(file)
    harm, words = DAMAGES[damage]
    harm(path)
    with pytest.raises(DamagedError, match=f"{path.name} {words}"):
        CheckpointReader(folder, written).whole("weights")
    assert (wrong_size(folder, written.files) is None) == (damage == "flipped bit")


def test_the_commit_waits_for_every_part(folder: Location) -> None:
    """Nothing is committed before the last rank has written; then it is, by the waiting thread."""
    save = Save(folder, "x", 2, patience=0)
    layout = fragments(STATE["weights"], 0, TOTAL)
    file = RankFile(KINDS, layout, SIZES, WHOLE, pinned=False)
    file.fill([f.tensor for k in KINDS for f in fragments(STATE[k], 0, TOTAL)])
    write_part(save, 0, file.content(), file.layout)
    thread = Thread(target=commit, args=(save, HEAD, SHAPES, KINDS, others, Event()))
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()
    assert (folder / COMMIT).size() is None
    empty = RankFile(KINDS, [], SIZES, WHOLE, pinned=False)
    empty.fill([])
    write_part(save, 1, empty.content(), empty.layout)
    thread.join()
    assert torch.equal(open_checkpoint(folder).whole("exp_avg")["b"], STATE["exp_avg"]["b"])


def test_parts_of_an_earlier_life_do_not_count(folder: Location) -> None:
    """What a killed save left is no part of this one; a wait for nothing can be given up."""
    store(folder, at([10]), life="earlier")
    abandoned = Event()
    abandoned.set()
    with pytest.raises(AbandonedError, match=r"parts\.later/rank-00000\.json was never written"):
        commit(Save(folder, "later", 2, 0), HEAD, SHAPES, KINDS, others, abandoned)


def test_storage_that_refuses_is_tried_again(tmp_path: Path) -> None:
    """A file in the way of the folder: an error after the patience, none if it goes in time."""
    in_the_way = tmp_path / "checkpoint_000000003"
    in_the_way.write_bytes(b"")
    folder = open_storage(str(in_the_way))
    file = RankFile(("weights",), fragments(STATE["weights"], 0, TOTAL), SIZES, WHOLE, pinned=False)
    with pytest.raises(InputError, match="cannot write"):
        write_part(Save(folder, "x", 1, patience=0.1), 0, file.content(), file.layout)
    save = Save(folder, "x", 1, patience=60)
    thread = Thread(target=write_part, args=(save, 0, file.content(), file.layout))
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    in_the_way.unlink()
    thread.join()
    assert (save.parts / save.part(0)).size() is not None


def test_what_is_not_there_is_named(folder: Location) -> None:
    """An average that was not kept, and what there is instead."""
    store(folder, at([10]))
    with pytest.raises(InputError, match=r"no ema/x of a.weight; it has weights, exp_avg, ema/ema"):
        open_checkpoint(folder).whole("ema/x")


def test_another_format_is_refused_and_not_taken_for_damage(folder: Location) -> None:
    """A run of another version is neither begun anew nor continued from an older checkpoint."""
    store(folder, at([10]))
    commit_file = Path(folder.path, COMMIT)
    commit_file.write_text(commit_file.read_text().replace('"format": 3', '"format": 2'))
    run = open_storage(str(commit_file.parents[1]))
    for read_it in (lambda: open_checkpoint(folder), lambda: committed(run)):
        with pytest.raises(InputError, match=r"is of format 2, .* use the version that"):
            read_it()
    commit_file.write_text("{}")
    assert committed(run) == []
    with pytest.raises(DamagedError, match="cannot be read"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "harm",
    [
        lambda commit: commit["files"].pop("index.json"),
        lambda commit: commit["files"]["index.json"].update(sha256=[]),
        lambda commit: commit["files"]["index.json"].update(bytes=-1),
        lambda commit: [commit["files"].pop(n) for n in list(commit["files"]) if "rank-" in n],
    ],
)
def test_a_commit_that_contradicts_itself_is_damage(folder: Location, harm: Any) -> None:
    """Then an older checkpoint is taken; it is no KeyError in the middle of a restore."""
    store(folder, at([10]))
    commit_file = Path(folder.path, COMMIT)
    content = json.loads(commit_file.read_text())
    harm(content)
    commit_file.write_text(json.dumps(content))
    with pytest.raises(DamagedError):
        open_checkpoint(folder)


def test_no_commit_is_no_checkpoint(folder: Location) -> None:
    """A folder without `checkpoint.json` does not exist."""
    with pytest.raises(InputError, match="is no complete checkpoint"):
        open_checkpoint(folder)
