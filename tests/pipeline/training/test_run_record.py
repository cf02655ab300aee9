"""A run continues as what it was, or not at all."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.checkpoint.record import COMMIT, CheckpointRecord, committed
from pipeline.errors import InputError
from pipeline.model.export import newest_model
from pipeline.storage import open_storage
from pipeline.training.run_record import RECORD, RunRecord, check_same_run, read_run, write_run


def record(config: Any) -> RunRecord:
    """The record of a run with this configuration."""
    return RunRecord(config=config, dataset_digest="d", mlflow_run_id="id", tracking_uri="uri")


def test_round_trip(tiny: Any, tmp_path: Path) -> None:
    """What is written is read; no run is None; another version's record is refused."""
    folder = open_storage(str(tmp_path / "run"))
    assert read_run(folder) is None
    write_run(folder, record(tiny()))
    assert read_run(folder) == record(tiny())
    (folder / RECORD).write_bytes(b'{"format": 1}')
    with pytest.raises(InputError, match="not a run of this version"):
        read_run(folder)


@pytest.mark.parametrize(
    "override",
    [
        *("steps=60", "resume=never", "data.train=elsewhere", "data.max_bad_fraction=0.5"),
        "data.loader_workers=2",
        *("checkpoint.keep=9", "tracking.log_every=7", "cluster.max_failures=0"),
        *("root=/", "storage_path=s"),
        *("cluster.workers=2", "cluster.workers=[1, 2]", "cluster.gpus_per_worker=1"),
        *("data.micro_batch=4", "deepspeed.zero_stage=3"),
        "deepspeed.config={zero_optimization: {offload_optimizer: {device: cpu}}}",
    ],
)
def test_what_may_change(tiny: Any, override: str) -> None:
    """Length, places, reporting, patience and topology do not change what a step computes."""
    check_same_run(record(tiny()), tiny(override), "d")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optimizer.learning_rate=0.5", "optimizer.learning_rate: 0.01 in the run, 0.5 now"),
        (
            "model.schedule.kind=monotone",
            "model.schedule.kind: 'linear' in the run, 'monotone' now",
        ),
        ("model.network.kind=unet", "model.network.multipliers: '[1, 2]' in the run, absent now"),
        ("seed=6", "seed: 5 in the run, 6 now"),
        ("deepspeed.precision=bfloat16", "'float32' in the run, 'bfloat16' now"),
        ("data.batch_size=16", "data.batch_size: 8 in the run, 16 now"),
        ("model.steps=10", "model.steps: None in the run, 10 now"),
        ("data.lanes=4", "data.lanes: 2 in the run, 4 now"),
    ],
)
def test_what_may_not_change(tiny: Any, override: str, expected: str) -> None:
    """The field is named with both values."""
    with pytest.raises(InputError) as caught:
        check_same_run(record(tiny()), tiny(override), "d")
    assert expected in str(caught.value)


def test_the_data_may_move_but_not_change(tiny: Any) -> None:
    """The same path with another manifest is another data set."""
    with pytest.raises(InputError, match=r"data.train: manifest d in the run, e now"):
        check_same_run(record(tiny()), tiny(), "e")


def test_the_given_schedule_may_move_but_not_change(tiny: Any) -> None:
    """A classifier's VDM in another place is the same by its digest, and another one by that."""
    here, there = (tiny(f"model={{kind: classifier, of: {place}}}") for place in "ab")
    old = record(here).model_copy(update={"given_sha256": "s"})
    check_same_run(old, there, "d", "s")
    with pytest.raises(InputError, match=r"model.of: digest s in the run, z now"):
        check_same_run(old, here, "d", "z")


def test_a_folder_without_commit_is_no_checkpoint(tmp_path: Path) -> None:
    """Newest first; what has no `checkpoint.json`, or a broken one, is not there."""
    run = open_storage(str(tmp_path))
    assert committed(run) == []
    with pytest.raises(InputError, match="there is no model in"):
        newest_model(run)
    for step in (9, 10, 11, 12):
        checkpoint = CheckpointRecord(
            step=step,
            next_index=step * 8,
            optimizer_steps=step,
            bits_per_dim=1.0,
            world_size=1,
            zero_stage=1,
            config_sha256="",
            files={},
        )
        name = f"checkpoint_{step:09d}"
        (run / name / "model.json").write_bytes(b"{}")
        if step != 11:
            (run / name / COMMIT).write_bytes(checkpoint.model_dump_json().encode())
    (run / "checkpoint_000000012" / COMMIT).write_bytes(b'{"format": 1, "ste')
    assert [found.step for _, found in committed(run)] == [10, 9]
    assert newest_model(run).path.endswith("checkpoint_000000010")
    model = run / "checkpoint_000000009"
    assert newest_model(model) == model
