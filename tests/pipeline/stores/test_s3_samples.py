"""A model, requests and samples in a real S3 server: the same set as on a disk, and continued."""

import io
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.config.model import ModelConfig
from pipeline.config.sample import SampleConfig
from pipeline.model.build import build_vdm
from pipeline.model.export import ModelCard, export_bytes
from pipeline.sampling.draw import Claimed
from pipeline.sampling.finish import finish_set
from pipeline.sampling.generate import ShardGenerator
from pipeline.sampling.output_folder import finished_shards
from pipeline.sampling.pictures import GRID, draw_grid
from pipeline.sampling.plan import load_for, plan_set
from pipeline.sampling.sample_set import SampleSet, open_sample_set
from pipeline.storage import open_storage

NETWORK = {"kind": "downsampling_unet", "width": 8, "multipliers": (1, 2), "blocks": 1}


def store_model(url: str) -> None:
    config = ModelConfig.model_validate({"network": NETWORK})
    vdm = build_vdm(config, (1, 8, 8), 3, seed=0, levels=256)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in vdm.network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    card = ModelCard(
        model=config, shape=(1, 8, 8), levels=256, classes=3, class_names=("a", "b", "c"),
        step=1, run="toy", mlflow_run_id=None, dataset_digest="",
    )  # fmt: skip
    for name, data in export_bytes(vdm.state_dict(), card).items():
        (open_storage(url) / name).write_bytes(data)


def store_requests(url: str) -> None:
    table = pa.table({"id": range(20, 0, -1), "class": [2, 0, 1, 1] * 5, "seed": range(20)})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    open_storage(url).write_bytes(buffer.getvalue())


def draw(config: SampleConfig, shards: int) -> SampleSet | None:
    """Draw `shards` of the missing shards at most; the set, if that makes it whole."""
    plan = plan_set(config, load_for(config))
    claimed = Claimed(plan, 0)
    claimed.open_for_writing()
    generator = ShardGenerator([claimed.cell()], plan.model.place.url)
    for task in claimed.missing[:shards]:
        generator(asdict(task))
    done = finished_shards(plan.output, claimed.plan_sha256)
    if len(done) < len(plan.tasks()):
        return None
    finish_set(plan, done)
    return open_sample_set(plan.output.url)


@pytest.mark.parametrize("form", ["webdataset", "parquet"])
def test_a_set_in_a_bucket_is_the_one_on_a_disk(bucket, tmp_path, form) -> None:
    store_model(f"{bucket}/model")
    store_requests(f"{bucket}/requests.parquet")

    def config(output: str) -> SampleConfig:
        return SampleConfig(
            model=f"{bucket}/model", requests=f"{bucket}/requests.parquet", output=output,
            steps=2, guidance_scale=2.0, samples_per_shard=6, format=form,
        )  # fmt: skip

    assert draw(config(f"{bucket}/samples"), shards=3) is None
    far, near = draw(config(f"{bucket}/samples"), shards=1), draw(config(str(tmp_path)), shards=4)
    assert far is not None
    assert near is not None
    assert far.shards == near.shards
    assert far.info == near.info
    assert far.manifest() == near.manifest()
    assert np.array_equal(far.images(range(20)), near.images(range(20)))
    draw_grid(far, 3)
    assert (far.folder / GRID).size()
