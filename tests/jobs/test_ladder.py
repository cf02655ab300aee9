"""jobs.ladder, whole: every family trained, evaluated and drawn, and what is finished is kept."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from small_models import FAMILIES

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_finished_family_is_kept_when_others_join_it(
    pack: Callable[..., str], tmp_path: Path
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
        command = [sys.executable, "-m", "jobs.ladder", "--config", str(tmp_path / "ladder.yaml")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        written.append(done)
    assert "ladder_hvae has done its" in written[1].stderr
    rows = json.loads((tmp_path / "runs/ladder/ladder.json").read_text())["rungs"]
    assert [row["name"] for row in rows] == ["hvae", "latent_vdm"]
    assert all(row["worker_seconds"] > 0 and row["samples_per_second"] > 0 for row in rows)
    assert [*rows[0]["terms"]] == ["reconstruction", "prior", "kl_1", "kl_2"]
    assert (tmp_path / "runs/ladder/ladder.md").read_text() in written[1].stdout
    assert (tmp_path / "runs/ladder/ladder.png").stat().st_size > 10_000
