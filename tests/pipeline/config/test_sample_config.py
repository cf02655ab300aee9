"""Numbers that no job could mean are refused when the configuration is read."""

import pytest

from pipeline.config.evaluate import EvaluateConfig
from pipeline.config.load import load_config
from pipeline.config.sample import SampleConfig
from pipeline.errors import InputError

SAMPLE = ["model=m", "output=o", "per_class=2"]
EVALUATE = ["model=m", "data=d"]


@pytest.mark.parametrize(
    "wrong",
    [
        "guidance_scale=nan", "guidance_scale=.inf", "guidance_scale=-1", "steps=0", "per_class=0",
        "batch_size=0", "samples_per_shard=0", "seed=-1", "sampler=euler", "pool.actors=0",
        "pool.cpus_per_actor=0", "pool.gpus_per_actor=-1", "clip=hard", "grid=sigma",
        "pool.min_actors=0", "format=zip", "encoding=jpg", "guidance=strong", "counts={0: 0}",
        "class_grid_images=-1", "sweep.steps=[0]", "sweep.guidance_scales=[.nan]",
        "sweep.samplers=[euler]", "sweep={}",
    ],
)  # fmt: skip
def test_an_impossible_sampling_request_is_refused_by_name(wrong):
    with pytest.raises(InputError, match=wrong.split("=")[0]):
        load_config(SampleConfig, [], [*SAMPLE, wrong])


@pytest.mark.parametrize(
    ("interval", "scale", "message"),
    [("[0, -5]", 2, r"\[0.0, -5.0\] is empty"), ("[-5, 0]", 1, "guidance_scale=1 is none")],
)
def test_an_interval_of_guidance_is_not_empty_and_has_guidance(interval, scale, message):
    with pytest.raises(InputError, match=message):
        load_config(
            SampleConfig, [], [*SAMPLE, f"gamma_interval={interval}", f"guidance_scale={scale}"]
        )


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ([], "given: none"),
        (["per_class=2", "counts={0: 1}"], "given: per_class, counts"),
        (["per_class=2", "requests=r.parquet"], "given: per_class, requests"),
        (["requests=r.parquet", "classes=[0]"], "leave it out with requests"),
        (["counts={}"], "counts is empty"),
        (["per_class=2", "guidance=autoguidance"], "takes a guide"),
        (["per_class=2", "pool.min_actors=2"], r"min_actors \(2\) is above actors \(1\)"),
        (["per_class=2", "sweep.steps=[4, 4]"], r"steps \[4, 4\] names one twice"),
        (["per_class=2", "guide=runs/weak"], "guide is for guidance=autoguidance or classifier"),
    ],
)
def test_what_contradicts_itself_is_refused_with_a_reason(asked, message):
    with pytest.raises(InputError, match=message):
        load_config(SampleConfig, [], ["model=m", "output=o", *asked])


@pytest.mark.parametrize(
    "wrong",
    [
        "draws=0", "steps=0", "batch_size=0", "seed=-1", "bounds.compute=[exact]", "bounds.steps=0",
        "bounds.importance_draws=0", "bounds.profile_points=1", "bounds.ode_tolerance=0",
        "bounds.dequantisation=none",
    ],
)  # fmt: skip
def test_an_impossible_evaluation_is_refused_by_name(wrong):
    with pytest.raises(InputError, match=wrong.split("=")[0]):
        load_config(EvaluateConfig, [], [*EVALUATE, wrong])


@pytest.mark.parametrize(
    ("schema", "preset"), [(SampleConfig, "sample"), (EvaluateConfig, "evaluate")]
)
def test_the_presets_are_valid(schema, preset, request):
    folder = request.config.rootpath / "jobs/presets"
    load_config(schema, [str(folder / f"fashion_mnist_{preset}.yaml")], [])
