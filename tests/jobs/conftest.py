"""What the tests of sampling and evaluation share: a toy run with a model, and a Ray cluster."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from pipeline.cluster.local_head import LOOPBACK, local_head
from pipeline.config.model import ModelConfig
from pipeline.config.train import TrainConfig
from pipeline.model.build import build_vdm
from pipeline.model.export import ModelCard, export_bytes
from pipeline.storage import open_storage
from pipeline.tracking import open_run, prepare_store, store_uri
from pipeline.training.run_record import RunRecord, write_run

ROOT = Path(__file__).resolve().parents[2]
SHAPE, CLASSES = (1, 8, 8), 3
NETWORK = {"kind": "downsampling_unet", "width": 8, "multipliers": (1, 2), "blocks": 1}
Job = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="session")
def export() -> Callable[..., Path]:
    """export(folder, setting=…): a model with random weights, its last layer too."""

    def write(folder: Path, mlflow_run_id: str | None = None, **model) -> Path:
        config = ModelConfig.model_validate({"network": NETWORK, **model})
        vdm = build_vdm(config, SHAPE, CLASSES, seed=0, levels=256)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in vdm.network.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        card = ModelCard(
            model=config, shape=SHAPE, levels=256, classes=CLASSES, class_names=("a", "b", "c"),
            step=1, run="toy", mlflow_run_id=mlflow_run_id, dataset_digest="",
        )  # fmt: skip
        for name, data in export_bytes(vdm.state_dict(), card).items():
            (open_storage(str(folder)) / name).write_bytes(data)
        return folder

    return write


@pytest.fixture
def toy_model(tmp_path: Path, export: Callable[..., Path]) -> Path:
    """A model's folder that lies in no run."""
    return export(tmp_path / "model")


@pytest.fixture
def toy_run(tmp_path: Path, export: Callable[..., Path]) -> Path:
    """A checkpoint's folder inside a run with an MLflow store."""
    run = tmp_path / "runs" / "toy"
    uri = store_uri(f"sqlite:///{tmp_path}/runs/mlflow.db", tmp_path)
    prepare_store(uri)
    run_id = open_run(uri, "toys", "toy", {})
    config = TrainConfig.model_validate(
        {
            "name": "toy",
            "steps": 1,
            "data": {"train": "set", "batch_size": 8},
            "model": {"network": NETWORK},
            "tracking": {"experiment": "toys"},
        }
    )
    record = RunRecord(config=config, dataset_digest="", mlflow_run_id=run_id, tracking_uri=uri)
    write_run(open_storage(str(run)), record)
    return export(run / "checkpoint_000000001", mlflow_run_id=run_id)


@pytest.fixture(scope="session")
def submit_job() -> Iterator[Job]:
    """submit_job("sample", "key=value", …): `python -m jobs.sample` on a Ray head of 2 CPUs."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port = probe.getsockname()[1]
    with local_head(2, port=port) as head:
        environment = head.environment | {"RAY_ADDRESS": f"{LOOPBACK}:{port}"}

        def start(job: str, *overrides: object) -> subprocess.Popen[str]:
            return subprocess.Popen(
                [sys.executable, "-m", f"jobs.{job}", *map(str, overrides)],
                cwd=ROOT,
                env=os.environ | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )

        yield start
