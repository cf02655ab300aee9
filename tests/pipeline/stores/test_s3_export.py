"""A model goes from a run in a bucket to another place in the bucket, whole or not at all."""

from typing import Any

import torch
from stored_run import averaged, store_run, wandering

from jobs.export import main, make_plan
from pipeline.config.average import AverageConfig
from pipeline.config.export import ExportConfig
from pipeline.model.average_record import AverageRecord
from pipeline.model.build import build_vdm
from pipeline.model.export import ModelCard, load_model
from pipeline.storage import open_storage

EMA = (AverageConfig(decay=0.9), AverageConfig(width=0.05), AverageConfig(width=0.1))


def test_a_run_in_a_bucket_is_exported_into_the_bucket(tiny: Any, bucket: str) -> None:
    """A kept average, and one that is put together; what is there already is not made again."""
    config = tiny().model
    vdm = build_vdm(config, (1, 8, 8), 3, seed=4, levels=256)
    card = ModelCard(
        model=config, shape=(1, 8, 8), levels=256, classes=3, class_names=("a", "b", "c"), step=1,
        run="tiny", mlflow_run_id=None, dataset_digest="", average=AverageRecord(decay=0.9),
    )  # fmt: skip
    path = wandering(vdm, 8)
    store_run(open_storage(f"{bucket}/run"), vdm, card, path, EMA, every=8, ema_every=2)
    for ema, count in ((EMA[2], None), (AverageConfig(width=0.07), 8)):
        output = f"{bucket}/models/{ema.name}"
        wanted = ExportConfig(run=f"{bucket}/run", output=output, ema=ema)
        assert not make_plan(wanted).exported
        main(wanted)
        assert make_plan(wanted).exported
        exported, about = load_model(open_storage(output))
        assert about.average.post_hoc_averages == count
        names = ["README.md", "model.json", "model.safetensors", "schedule.json"]
        assert open_storage(output).files() == names
        if count is None:
            expected = averaged(path, ema)[-1]
            for name, parameter in exported.named_parameters():
                assert torch.equal(parameter, expected[name].float())
