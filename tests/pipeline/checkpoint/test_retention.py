"""What is deleted, when, and what never is."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pipeline.checkpoint.record import COMMIT, CheckpointRecord, checkpoint_name, file_record
from pipeline.checkpoint.retention import kept, tidy
from pipeline.config.train import CheckpointConfig
from pipeline.storage import open_storage


def record(step: int, loss: float = 1.0) -> CheckpointRecord:
    return CheckpointRecord(
        step=step,
        next_index=8 * step,
        optimizer_steps=step,
        bits_per_dim=loss,
        world_size=1,
        zero_stage=0,
        config_sha256="",
        files={"state": file_record(b"state")},
    )


@given(
    losses=st.dictionaries(st.integers(1, 60), st.floats(0, 9), min_size=1),
    keep=st.integers(1, 4),
    every=st.none() | st.integers(1, 9),
    best=st.booleans(),
)
def test_who_stays(losses: dict[int, float], keep: int, every: int | None, best: bool) -> None:
    """The last ones, the newest above all; every n-th; the best; and nobody else."""
    config = CheckpointConfig(keep=keep, keep_every=every, keep_best=best)
    stay = kept([record(step, loss) for step, loss in losses.items()], config)
    last = sorted(losses)[-keep:]
    assert max(losses) in stay
    assert set(last) <= stay <= set(losses)
    for step in set(losses) - set(last):
        lowest = best and losses[step] == min(losses.values())
        if step in stay:
            assert (every is not None and step % every == 0) or lowest
        else:
            assert every is None or step % every != 0
    if best:
        assert min(losses.values()) in {losses[step] for step in stay}


def store(run: Path, step: int, *, commit: bool = True) -> Path:
    folder = run / checkpoint_name(step)
    folder.mkdir(parents=True)
    (folder / "state").write_bytes(b"state")
    if commit:
        (folder / COMMIT).write_text(record(step).model_dump_json())
    return folder


def test_what_goes(tmp_path: Path) -> None:
    """Old checkpoints, folders without a commit, files no commit names; nothing else of the run."""
    for step in (2, 4, 6):
        store(tmp_path, step)
    store(tmp_path, 5, commit=False)
    (tmp_path / checkpoint_name(6) / "rank-00000.killed.safetensors").write_bytes(b"left")
    later = store(tmp_path, 8)
    unreadable = store(tmp_path, 3)
    (unreadable / COMMIT).write_text("{}")
    (tmp_path / "samples").mkdir()
    tidy(open_storage(str(tmp_path)), checkpoint_name(6), CheckpointConfig(keep=2), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(checkpoint_name(step) for step in (3, 4, 6)),
        later.name,
        "samples",
    ]
    assert sorted(path.name for path in (tmp_path / checkpoint_name(6)).iterdir()) == [
        COMMIT,
        "state",
    ]
