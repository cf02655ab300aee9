"""Averages of one run, evaluated side by side: each its own weights, place and request."""

from pathlib import Path
from typing import Any

import torch
from stored_run import averaged, store_run, wandering

from pipeline.config.average import AverageConfig
from pipeline.config.evaluate import EvaluateConfig
from pipeline.config.load import load_config
from pipeline.evaluation.evaluate import LikelihoodEvaluator
from pipeline.evaluation.plan import make_plans
from pipeline.model.average_record import AverageRecord
from pipeline.model.build import build_vdm
from pipeline.model.export import ModelCard
from pipeline.storage import open_storage

EMA = (AverageConfig(decay=0.9), AverageConfig(width=0.1))


def test_each_average_is_a_model_of_its_own(tiny: Any, pack: Any, tmp_path: Path) -> None:
    model = tiny().model
    vdm = build_vdm(model, (1, 8, 8), 3, seed=4, levels=256)
    card = ModelCard(
        model=model, shape=(1, 8, 8), levels=256, classes=3, class_names=("a", "b", "c"), step=1,
        run="tiny", mlflow_run_id=None, dataset_digest="", average=AverageRecord(decay=0.9),
    )  # fmt: skip
    path = wandering(vdm, 6)
    store_run(open_storage(str(tmp_path / "run")), vdm, card, path, EMA, every=6, ema_every=6)
    given = ["model=[run, run]", "ema=[{width: 0.1}, {decay: 0}]", "output=o", f"root={tmp_path}"]
    config = load_config(EvaluateConfig, [], [*given, f"data={pack(tmp_path / 'set')}"])
    plans = make_plans(config)
    names = [plan.output.path.rpartition("/")[2] for plan in plans]
    assert names == ["01-tiny-step-6-width_0.1", "02-tiny-step-6-decay_0.0"]
    assert plans[0].request != plans[1].request
    assert "power-function average of relative width 0.1" in plans[0].text()
    for plan, expected in zip(plans, (averaged(path, EMA[1])[-1], path[-1]), strict=True):
        evaluator = LikelihoodEvaluator(plan.config, plan.model.url)
        for name, parameter in evaluator.model.named_parameters():
            assert torch.equal(parameter, expected[name].float())
