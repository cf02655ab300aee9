"""What the tests of sampling share: models of random weights, and sets drawn without a cluster."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from pipeline.config.model import DownsamplingUNetConfig, ModelConfig
from pipeline.config.sample import SampleConfig
from pipeline.model.build import build_vdm
from pipeline.model.export import ModelCard, export_bytes
from pipeline.sampling.draw import Claimed
from pipeline.sampling.finish import finish_set
from pipeline.sampling.generate import ShardGenerator
from pipeline.sampling.output_folder import finished_shards
from pipeline.sampling.plan import load_for, plan_set
from pipeline.sampling.sample_set import SampleSet, open_sample_set
from pipeline.storage import open_storage

CLASSES = 3
NETWORK = DownsamplingUNetConfig(kind="downsampling_unet", width=8, multipliers=(1, 2), blocks=1)
Export = Callable[..., str]
Draw = Callable[..., SampleSet]


@pytest.fixture(scope="session")
def export() -> Export:
    """export(folder, seed=0, setting=…): a model whose noise, time and label all matter."""

    def write(folder: Path, seed: int = 0, channels: int = 1, **model) -> str:
        shape = (channels, 8, 8)
        config = ModelConfig(network=NETWORK, **model)
        vdm = build_vdm(config, shape, CLASSES, seed=seed, levels=256)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for parameter in vdm.network.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        card = ModelCard(
            model=config, shape=shape, levels=256, classes=CLASSES, class_names=("a", "b", "c"),
            step=1, run="toy", mlflow_run_id=None, dataset_digest="",
        )  # fmt: skip
        for name, data in export_bytes(vdm.state_dict(), card).items():
            (open_storage(str(folder)) / name).write_bytes(data)
        return str(folder)

    return write


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, export: Export) -> str:
    """A conditional model of grey 8 x 8 images."""
    return export(tmp_path_factory.mktemp("model"))


@pytest.fixture
def request_of(tmp_path: Path, model: str) -> Callable[..., SampleConfig]:
    """request_of("name", setting=…): a request for a small guided set in a folder of that name.

    A setting that is None is left out.
    """

    def make(name: str, **changes) -> SampleConfig:
        plan = {} if {"counts", "requests"} & changes.keys() else {"per_class": 5}
        asked = {"model": model, "steps": 3, "guidance_scale": 2.0, "samples_per_shard": 6, **plan}
        given = {key: value for key, value in (asked | changes).items() if value is not None}
        return SampleConfig(output=name, root=str(tmp_path), **given)

    return make


@pytest.fixture
def draw(request_of) -> Draw:
    """draw("name", setting=…): draw a whole set as the job would, with one actor, and open it."""

    def samples(name: str, reverse: bool = False, **changes) -> SampleSet:
        config = request_of(name, **changes)
        plan = plan_set(config, load_for(config))
        claimed = Claimed(plan, 0)
        claimed.open_for_writing()
        generator = ShardGenerator([claimed.cell()], plan.model.place.url)
        for task in reversed(claimed.missing) if reverse else claimed.missing:
            assert generator(asdict(task)) == [asdict(task)]
        finish_set(plan, finished_shards(plan.output, claimed.plan_sha256))
        return open_sample_set(plan.output.url)

    return samples
