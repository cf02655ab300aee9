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
