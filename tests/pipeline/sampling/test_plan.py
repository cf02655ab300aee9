"""A request becomes a plan: shards that cover it, an identity, and refusals before work starts."""

import pytest

from pipeline.config.sample import PoolConfig
from pipeline.errors import InputError
from pipeline.model.export import CARD, WEIGHTS
from pipeline.sampling.output_folder import Identity
from pipeline.sampling.plan import load_for, plan_set


@pytest.fixture
def plan(request_of):
    """plan(setting=…): the plan of a request."""

    def make(**changes):
        config = request_of("s", **changes)
        return plan_set(config, load_for(config))

    return make


@pytest.fixture
def identity(plan):
    """identity(setting=…): what the shards of a request depend on."""

    def of(**changes) -> Identity:
        return plan(**changes).identity

    return of


@pytest.mark.parametrize(
    ("per_class", "shard", "sizes"),
    [(4, 5, [5, 5, 2]), (4, 12, [12]), (4, 100, [12]), (1, 1, [1, 1, 1])],
)
def test_shards_cover_every_sample_once(plan, per_class, shard, sizes):
    """`per_class` times classes samples, consecutive, none left out, whatever the shard's size."""
    tasks = plan(per_class=per_class, samples_per_shard=shard).tasks()
    assert [task.stop - task.start for task in tasks] == sizes
    assert [task.start for task in tasks] == [0] + [task.stop for task in tasks[:-1]]
    assert len({task.shard for task in tasks}) == len(tasks)


def test_an_unconditional_model_gives_per_class_images_in_all(plan, export, tmp_path):
    plain = export(tmp_path / "plain", conditional=False)
    assert plan(model=plain, per_class=4, guidance_scale=1.0).rows.total == 4


@pytest.mark.parametrize("asked", [{"classes": (0,)}, {"counts": {0: 2}}, {"guidance_scale": 2.0}])
def test_classes_and_guidance_are_refused_without_labels(plan, export, tmp_path, asked):
    plain = export(tmp_path / "plain", conditional=False)
    with pytest.raises(InputError, match="knows no classes"):
        plan(**({"model": plain, "guidance_scale": 1.0} | asked))


@pytest.mark.parametrize(
    "asked",
    [
        {"classes": (3,)},
        {"classes": (-1,)},
        {"classes": ()},
        {"classes": (1, 1)},
        {"counts": {3: 1}},
    ],
)
def test_classes_must_be_distinct_ones_that_the_model_knows(plan, asked):
    with pytest.raises(InputError, match="distinct numbers from 0 to 2"):
        plan(**asked)


def test_guidance_is_refused_where_the_null_condition_was_never_trained(plan, export, tmp_path):
    model = export(tmp_path / "m", drop_label=0.0)
    with pytest.raises(InputError, match="drop_label 0"):
        plan(model=model, guidance_scale=1.5)
    assert plan(model=model, guidance_scale=1.0).tasks()


@pytest.mark.parametrize("kind", ["multivariate", "adaptive"])
def test_what_asks_for_one_gamma_is_refused_where_each_pixel_has_its_own(
    plan, export, tmp_path, kind
):
    model = export(tmp_path / "m", schedule={"kind": kind})
    for wrong in (
        {"sampler": "heun"},
        {"sampler": "dpmpp_2m"},
        {"grid": "gamma"},
        {"gamma_interval": (-5.0, 0.0)},
    ):
        with pytest.raises(InputError, match=rf"{next(iter(wrong))}.*\({kind}\) has one for each"):
            plan(model=model, **wrong)
    assert plan(model=model, sampler="ddim", clip="static").tasks()


def test_more_shards_than_there_are_numbers_are_refused(plan):
    """Before they are listed: a typing error may ask for a milliard of them."""
    with pytest.raises(InputError, match=r"shards of 1000; give samples_per_shard=\d+ or more"):
        plan(per_class=10**12, samples_per_shard=1000)


def test_webp_is_refused_for_grey_images(plan):
    with pytest.raises(InputError, match="webp stores three channels"):
        plan(encoding="webp")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / CARD).unlink(), "there is no model"),
        (lambda folder: (folder / WEIGHTS).unlink(), "is missing beside"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"x"), "does not match the digest"),
    ],
)
def test_a_missing_or_tampered_model_is_refused(plan, export, tmp_path, break_it, message):
    folder = tmp_path / "broken"
    export(folder)
    break_it(folder)
    with pytest.raises(InputError, match=message):
        plan(model=str(folder))


def test_identity_has_what_the_shards_depend_on_and_nothing_else(identity, export, tmp_path):
    """Batch size, pool, paths and the grids may change between two calls; all else may not."""
    base = identity()
    free = {"batch_size": 3, "pool": PoolConfig(actors=2), "grid_columns": 2, "overwrite": True}
    copy = export(tmp_path / "same weights, elsewhere")
    assert identity(**free, class_grid_images=4, model=copy) == base
    assert identity(classes=(0, 1, 2)) == base  # null means all
    for change in (
        {"per_class": 6}, {"classes": (1,)}, {"counts": {0: 5, 1: 5, 2: 5}}, {"seed": 1},
        {"sampler": "ddim"}, {"steps": 9}, {"guidance_scale": 3.0}, {"samples_per_shard": 3},
        {"grid": "gamma"}, {"clip": "static"}, {"gamma_interval": (-5.0, 0.0)},
        {"format": "parquet"}, {"compile": True},
        {"model": export(tmp_path / "other weights", seed=1)},
        {"model": export(tmp_path / "other prediction", prediction="v")},
    ):  # fmt: skip
        assert identity(**change) != base, change
