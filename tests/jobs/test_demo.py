"""`make demo`: its command line, and the whole line on a real head in a temporary root."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from jobs import demo
from pipeline.data.dataset import open_dataset
from pipeline.evaluation.run import REPORT

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "steps=6", "data.batch_size=16", "model.network.width=8", "model.network.multipliers=[1,2]",
    "model.network.blocks=1", "checkpoint.every_steps=6", "tracking.log_every=2",
    "tracking.picture_images=3", "tracking.picture_steps=2", "optimizer.warmup_steps=2",
    "--evaluate", "draws=1", "--sample", "per_class=1", "--sample", "steps=2",
]  # fmt: skip


@pytest.mark.parametrize("wrong", [["stepz=3"], ["--sample", "stepz=3"], ["--evaluate", "draws=0"]])
def test_a_wrong_override_is_refused_before_anything_starts(wrong, tmp_path, capsys):
    """Of any of the jobs: also of the last, which would start minutes later."""
    assert demo.main(["--root", str(tmp_path), *wrong]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert list(tmp_path.iterdir()) == []


def start(root: Path, *arguments: str) -> subprocess.Popen[str]:
    """The demo in a process group of its own, as a terminal would start it."""
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "jobs.demo", "--root", str(root), *TINY, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def with_arguments(text: str) -> list[str]:
    """Command lines of the processes of this machine that have `text` in them."""
    lines = [" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])]
    return [line for line in lines if text in line]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_whole_line_goes_on_where_it_was_stopped(tmp_path):
    """A job that fails is named; the next call reuses what is there; Ctrl-C ends all of it."""
    failing = start(tmp_path, "--evaluate", "data=/nowhere")
    log = failing.communicate()[0]
    assert failing.returncode == 1, log
    assert "error: job evaluate failed" in log
    assert "/nowhere does not exist" in log
    assert "== sample ==" not in log

    whole = start(tmp_path)
    log = whole.communicate()[0]
    assert whole.returncode == 0, log
    assert "has done its 6 steps already" in log
    check_results(tmp_path / "runs" / "fashion_mnist_cpu", log.partition("== results ==")[2])

    interrupted = start(tmp_path)
    port = re.search(r"dashboard http://127.0.0.1:(\d+)", read_until("== train ==", interrupted))[1]
    assert with_arguments(f"--dashboard-port={port}")
    os.killpg(interrupted.pid, signal.SIGINT)
    log = interrupted.communicate(timeout=60)[0]
    assert interrupted.returncode == 130, log
    assert "interrupted; run it again" in log
    deadline = time.monotonic() + 30
    while left := with_arguments(str(tmp_path)) + with_arguments(f"--dashboard-port={port}"):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def check_results(run: Path, summary: str) -> None:
    """The page of results says what the files hold."""
    bound = json.loads((run / "evaluation" / REPORT).read_text())["bound"]
    assert bound["images"] == 1000
    assert f"{bound['bits_per_dim']:.4f} ± {bound['standard_error']:.4f} bits/dim" in summary
    assert "the best i.i.d.-pixel model" in summary
    samples = open_dataset(str(run / "samples"))
    assert samples.label_counts == (1,) * 10
    for path in ("samples/grid.png", "samples/manifest.parquet", "evaluation/likelihood.png"):
        assert (run / path).exists()
        assert str(run / path) in summary
    assert f"sqlite:///{run.parent / 'mlflow.db'}" in summary
    assert all(phase in summary for phase in ("prepare ", "train ", "evaluate ", "sample "))


def read_until(text: str, process: subprocess.Popen[str]) -> str:
    """What the process says up to the line with `text`."""
    seen = ""
    while text not in seen:
        line = process.stdout.readline()
        assert line, seen
        seen += line
    return seen
