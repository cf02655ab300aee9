"""All the way through a real S3 server: sources, packed sets, streams, a run and its samples."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.checkpoint.record import committed
from pipeline.config.prepare import PrepareConfig
from pipeline.data.dataset import ShardedDataset, open_dataset
from pipeline.data.decode import encode_png
from pipeline.data.stream import iterate_once
from pipeline.data.tar_reader import sample_offsets
from pipeline.errors import InputError
from pipeline.prepare.splits import plan_prepare, prepare
from pipeline.storage import open_storage

PROJECT = Path(__file__).parents[3]
IMAGES = np.random.Generator(np.random.Philox(5)).integers(0, 256, (24, 1, 8, 8), np.uint8)


def config(output: str, source: dict[str, Any], **changes: Any) -> PrepareConfig:
    given = {"output": output, "splits": {"train": source}, "shard_samples": 7, "block_samples": 3}
    return PrepareConfig.model_validate(given | changes)


def upload_tree(url: str) -> dict[str, Any]:
    folder = open_storage(url)
    for n, image in enumerate(IMAGES):
        (folder / f"class{n % 3}/{n:02d}.png").write_bytes(encode_png(image))
    return {"kind": "folder", "path": url}


def run(prepared: PrepareConfig) -> ShardedDataset:
    return prepare(plan_prepare(prepared))["train"]


def pixels(dataset: ShardedDataset) -> list[bytes]:
    batches = iterate_once(dataset, batch_size=5)
    return [image.numpy().tobytes() for batch in batches for image in batch.images]


def test_bucket_to_bucket_gives_the_set_of_bucket_to_disk(bucket: str, tmp_path: Path) -> None:
    """Same shards, same manifest, same stream; running it again changes nothing."""
    source = upload_tree(f"{bucket}/tree")
    far = config(f"{bucket}/out", source)
    one, two = run(far), run(config(str(tmp_path), source))
    assert one.rows == two.rows
    assert one.info == two.info
    assert pixels(one) == pixels(two)
    assert sorted(pixels(one)) == sorted(image.tobytes() for image in IMAGES)
    folder = open_storage(f"{bucket}/out/train")
    assert folder.folders() == []
    assert folder.files() == sorted(path.name for path in (tmp_path / "train").iterdir())
    assert plan_prepare(far).text() == "train: finished already, unchanged"


def test_a_set_is_replaced_in_the_bucket(bucket: str) -> None:
    source = upload_tree(f"{bucket}/tree")
    before = sorted(pixels(run(config(f"{bucket}/out", source))))
    with pytest.raises(InputError, match="another configuration"):
        plan_prepare(config(f"{bucket}/out", source, seed=1))
    after = run(config(f"{bucket}/out", source, seed=1, overwrite=True, shard_samples=24))
    assert len(after.rows) == 1
    assert sorted(pixels(after)) == before
    shards = [name for name in open_storage(f"{bucket}/out/train").files() if ".tar" in name]
    assert shards == ["shard-00000-000.tar"]


def test_tars_in_a_bucket_are_indexed(bucket: str) -> None:
    packed = run(config(f"{bucket}/out", upload_tree(f"{bucket}/tree")))
    tars = {"kind": "webdataset", "path": f"{bucket}/out/train"}
    indexed = run(config(f"{bucket}/index", tars))
    assert [row.sha256 for row in indexed.rows] == [row.sha256 for row in packed.rows]
    assert pixels(open_dataset(f"{bucket}/index/train")) == pixels(packed)


def test_the_headers_of_a_tar_are_read_in_large_pieces(bucket: str, faulty: Any) -> None:
    """A request for each of them would take minutes for a usual shard."""
    packed = run(config(f"{bucket}/out", upload_tree(f"{bucket}/tree")))
    faulty.requests.clear()
    shard = packed.rows[0]
    assert len(sample_offsets(packed.shards_at / shard.shard)) == shard.samples + 1 > 4
    assert faulty.requests.count("GET") <= 3  # all, its end, and the mark there


@pytest.mark.parametrize("fault", ["503", "reset"])
def test_a_set_is_packed_and_streamed_through_a_bad_network(
    bucket: str, faulty: Any, fault: str
) -> None:
    source = upload_tree(f"{bucket}/tree")
    faulty.faults = [("GET", fault), ("PUT", fault), ("HEAD", "503")]
    dataset = run(config(f"{bucket}/out", source))
    assert not faulty.faults
    faulty.faults = [("GET", fault)] * 2
    assert sorted(pixels(dataset)) == sorted(image.tobytes() for image in IMAGES)


def test_files_of_a_bucket_are_read_many_at_once(bucket: str, faulty: Any, tmp_path: Path) -> None:
    source = upload_tree(f"{bucket}/tree")
    faulty.most_at_once = 0
    run(config(str(tmp_path), source))
    assert 4 < faulty.most_at_once <= 16


def test_a_bucket_that_is_not_there(bucket: str, tmp_path: Path) -> None:
    nowhere = {"kind": "folder", "path": "s3://vdm-nowhere/tree"}
    with pytest.raises(InputError, match="s3://vdm-nowhere/tree is not a folder"):
        plan_prepare(config(str(tmp_path), nowhere))
    with pytest.raises(InputError, match="s3://vdm-nowhere/set/train"):
        open_dataset("s3://vdm-nowhere/set/train")


def job(name: str, config_file: Path, *overrides: str) -> str:
    """What `python -m jobs.<name>` says, in a process of its own with a Ray of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-m", f"jobs.{name}", "--config", config_file, *overrides],
        cwd=PROJECT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_in_a_bucket_is_continued_and_sampled(
    bucket: str, pack: Any, tiny: Any, tmp_path: Path
) -> None:
    """Data, checkpoints and samples in the bucket, through the jobs as a person runs them."""
    pack(f"{bucket}/set")
    tiny()
    where = [
        f"storage_path={bucket}/runs",
        f"data.train={bucket}/set",
        f"tracking.uri=sqlite:///{tmp_path}/mlflow.db",
    ]
    job("train", tmp_path / "tiny.yaml", *where, "steps=4")
    run_folder = open_storage(f"{bucket}/runs/tiny")
    assert [(name, past.step) for name, past in committed(run_folder)] == [
        ("checkpoint_000000004", 4)
    ]
    said = job("train", tmp_path / "tiny.yaml", *where, "steps=6")
    assert "continuing tiny after step 4" in said
    assert [past.step for _, past in committed(run_folder)] == [6, 4]

    asked = tmp_path / "sample.yaml"
    asked.write_text(f"model: {run_folder}\noutput: {bucket}/samples\nper_class: 3\nsteps: 2\n")
    job("sample", asked)
    samples = open_dataset(f"{bucket}/samples")
    assert samples.info.samples == 9
    assert len(pixels(samples)) == 9
    job("sample", asked)  # finished already
