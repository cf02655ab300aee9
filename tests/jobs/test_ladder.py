"""jobs.ladder, whole: every family trained, evaluated and drawn, and what is finished is kept."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_models import FAMILIES


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_finished_family_is_kept_when_others_join_it(
    pack: Callable[..., str], tmp_path: Path, submit_job: Any
) -> None:
    data = pack(tmp_path / "set")
    fields = {
        "root": str(tmp_path), "teraflops": 1e-3, "test": data, "draws": 1, "per_class": 2,
        "sample_steps": 2, "data": {"train": data, "batch_size": 8, "lanes": 2},
        "tracking": {"log_every": 1, "picture_images": 3, "picture_steps": 2},
    }  # fmt: skip
    written = []
    for names in (["hvae"], ["hvae", "latent_vdm"]):
        rungs = {name: {"title": name, "model": FAMILIES[name]} for name in names}
        (tmp_path / "ladder.yaml").write_text(yaml.safe_dump(fields | {"rungs": rungs}))
        job = submit_job("ladder", "--config", tmp_path / "ladder.yaml")
        log = job.communicate()[0]
        assert job.returncode == 0, log[-3000:]
        written.append(log)
    assert "ladder_hvae has done its" in written[1]
    rows = json.loads((tmp_path / "runs/ladder/ladder.json").read_text())["rungs"]
    assert [row["name"] for row in rows] == ["hvae", "latent_vdm"]
    assert all(row["worker_seconds"] > 0 and row["samples_per_second"] > 0 for row in rows)
    assert [*rows[0]["terms"]] == ["reconstruction", "prior", "kl_1", "kl_2"]
    assert (tmp_path / "runs/ladder/ladder.md").read_text() in written[1]
    assert (tmp_path / "runs/ladder/ladder.png").stat().st_size > 10_000
