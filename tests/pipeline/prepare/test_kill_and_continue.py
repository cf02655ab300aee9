"""Preparation is killed with SIGKILL and run again: the bytes are those of a quiet run."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.prepare import main
from pipeline.config.prepare import PrepareConfig
from pipeline.data.decode import encode_png
from pipeline.prepare.tar_index import TarIndexer

PROJECT = Path(__file__).parents[3]
SCRIPT = Path(__file__).with_name("prepare_process.py")
IMAGES = 600


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of 24 x 24 pixels in four classes, and two files that are none."""
    folder = tmp_path_factory.mktemp("tree")
    pixels = np.random.Generator(np.random.Philox(1)).integers(
        0, 256, (IMAGES, 3, 24, 24), np.uint8
    )
    for n, image in enumerate(pixels):
        place = folder / f"class{n % 4}"
        place.mkdir(exist_ok=True)
        (place / f"{n:04d}.png").write_bytes(b"?" if n in (17, 400) else encode_png(image))
    return folder


def config(tree: Path, output: Path, **changes: Any) -> PrepareConfig:
    given = {
        "output": str(output),
        "splits": {"train": {"kind": "folder", "path": str(tree)}},
        "shard_samples": 7,
        "shuffle_bytes": 40_000,
        "block_samples": 3,
        "on_bad_image": "skip",
    }
    return PrepareConfig.model_validate(given | changes)


def tree_bytes(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def quiet(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The set that nobody disturbed."""
    output = tmp_path_factory.mktemp("quiet")
    main(config(tree, output))
    return tree_bytes(output)


def start(prepared: PrepareConfig) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, SCRIPT, prepared.model_dump_json()],
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def kill_after(prepared: PrepareConfig, count: int, files: str = "*.tar") -> None:
    """Start the preparation and kill its driver when so many shards (or `files`) are there."""
    process = start(prepared)
    folder = Path(prepared.output) / "train"
    while process.poll() is None and len(list(folder.glob(files))) < count:
        time.sleep(0.001)
    process.kill()
    process.wait()


def finish(prepared: PrepareConfig) -> None:
    process = start(prepared)
    assert process.wait(timeout=120) == 0


def test_packing_continues_with_the_same_bytes(
    tree: Path, quiet: dict[str, bytes], tmp_path: Path
) -> None:
    """Two kills at random moments; the finished shards of before are not written again."""
    prepared = config(tree, tmp_path)
    moment = random.Random(11)
    for _ in range(2):
        there = len(list((tmp_path / "train").glob("*.tar")))
        kill_after(prepared, there + moment.randint(8, 35))
    assert not (tmp_path / "train/dataset.json").exists()
    done = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tar")}
    finish(prepared)
    assert tree_bytes(tmp_path) == quiet
    again = {path for path in done if path.stat().st_mtime_ns != done[path]}
    assert len(again) < 10  # the shards of the one pool that was under way
    assert len(done) > 20


def test_a_changed_source_is_looked_at_again(tree: Path, tmp_path: Path) -> None:
    """What an interrupted run found is used only for the very same files."""
    copy = tmp_path / "copy"
    for path in tree.rglob("*.png"):
        (copy / path.parent.name).mkdir(parents=True, exist_ok=True)
        (copy / path.parent.name / path.name).symlink_to(path)
    prepared = config(copy, tmp_path / "out")
    kill_after(prepared, 10)
    (copy / "class0/0000.png").unlink()
    main(prepared)
    main(config(copy, tmp_path / "fresh"))
    assert tree_bytes(tmp_path / "out") == tree_bytes(tmp_path / "fresh")


def test_indexing_continues_with_the_tars_that_are_left(
    tree: Path, quiet: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished tars are not read again, unless they have changed since."""
    for name, data in quiet.items():
        if name.endswith(".tar"):
            (tmp_path / "tars").mkdir(exist_ok=True)
            (tmp_path / "tars" / Path(name).name).write_bytes(data)
    names = sorted(path.name for path in (tmp_path / "tars").iterdir())
    tars = {"train": {"kind": "webdataset", "path": str(tmp_path / "tars")}}
    main(config(tree, tmp_path / "quiet", splits=tars))
    prepared = config(tree, tmp_path / "killed", splits=tars)
    kill_after(prepared, 20, "preparing/*.json")
    done = len(list((tmp_path / "killed/train/preparing").glob("*.json")))
    os.utime(tmp_path / "tars" / names[3], (0, 0))
    read: list[str] = []
    index = TarIndexer._index
    monkeypatch.setattr(
        TarIndexer, "_index", lambda self, name, tar: read.append(name) or index(self, name, tar)
    )
    main(prepared)
    assert 20 <= done < len(names)
    assert read == [names[3], *names[done:]]
    assert tree_bytes(tmp_path / "killed") == tree_bytes(tmp_path / "quiet")


@pytest.mark.slow
def test_actors_write_the_bytes_of_one_process_though_the_driver_is_killed(
    tree: Path, quiet: dict[str, bytes], tmp_path: Path
) -> None:
    """Two actors on a real cluster; the first driver dies in the middle."""
    prepared = config(tree, tmp_path, pool={"actors": 2, "cpus_per_actor": 0.5})
    kill_after(prepared, 15)
    finish(prepared)
    assert tree_bytes(tmp_path) == quiet


@pytest.mark.slow
def test_actors_index_and_refuse_as_one_process_does(tree: Path, tmp_path: Path) -> None:
    """The rows of an index come in name order; an actor's InputError is the driver's."""
    main(config(tree, tmp_path / "packed"))
    tars = {"train": {"kind": "webdataset", "path": str(tmp_path / "packed/train")}}
    two = {"actors": 2, "cpus_per_actor": 0.5}
    main(config(tree, tmp_path / "one", splits=tars))
    finish(config(tree, tmp_path / "two", splits=tars, pool=two))
    assert tree_bytes(tmp_path / "one") == tree_bytes(tmp_path / "two")
    last = max((tmp_path / "packed/train").glob("*.tar"))
    last.write_bytes(last.read_bytes()[:-10_240])
    refused = subprocess.run(
        [
            sys.executable,
            SCRIPT,
            config(tree, tmp_path / "x", splits=tars, pool=two).model_dump_json(),
        ],
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert f"InputError: {last} is not a plain tar" in refused.stderr
    assert not list((tmp_path / "x").rglob("dataset.json"))
