"""The state of a sample set on disk: which request it is, which shards are done, what may go."""

import json
from collections.abc import Callable

import pytest

from pipeline.config.model import DownsamplingUNetConfig, ModelConfig
from pipeline.config.sample import PoolConfig, SampleConfig
from pipeline.data.manifest import DATASET
from pipeline.data.writer import ShardSample, write_shard
from pipeline.errors import InputError
from pipeline.model.export import ModelCard
from pipeline.sampling.sample_set import (
    PLAN,
    ROWS,
    finish_samples,
    finished_rows,
    keep_row,
    open_output,
    plan_identity,
    plan_shards,
    wanted_classes,
)
from pipeline.storage import Location, open_storage

NETWORK = DownsamplingUNetConfig(kind="downsampling_unet", width=8, multipliers=(1,), blocks=1)


def request(**changes) -> SampleConfig:
    return SampleConfig(**{"model": "m", "output": "o", "per_class": 4, **changes})


def model_card(classes: int | None = 3, step: int = 7, sha: str = "ab", **model) -> ModelCard:
    return ModelCard(
        model=ModelConfig(network=NETWORK, **model), shape=(1, 4, 4), levels=256, classes=classes,
        class_names=("a", "b", "c")[: classes or 0], step=step, run="r", mlflow_run_id=None,
        dataset_digest="d", weights_sha256=sha,
    )  # fmt: skip


@pytest.fixture
def output(tmp_path) -> Location:
    return open_storage(str(tmp_path / "samples"))


@pytest.fixture
def write(output) -> Callable[[str], None]:
    """write(shard): write a shard of one sample and its row."""

    def shard(name: str) -> None:
        image = b"\x89PNG stands for an image"
        keep_row(output, write_shard(output, name, [ShardSample(name[6:12], image, "png", 0)]))

    return shard


@pytest.mark.parametrize(
    ("per_class", "classes", "shard", "sizes"),
    [(4, 3, 5, [5, 5, 2]), (4, 3, 12, [12]), (4, 3, 100, [12]), (1, 3, 1, [1, 1, 1])],
)
def test_shards_cover_every_sample_once(per_class, classes, shard, sizes):
    """`per_class` times classes samples, consecutive, none left out, whatever the shard's size."""
    tasks = plan_shards(request(per_class=per_class, samples_per_shard=shard), model_card(classes))
    assert [task.stop - task.start for task in tasks] == sizes
    assert [task.start for task in tasks] == [0] + [task.stop for task in tasks[:-1]]
    assert len({task.shard for task in tasks}) == len(tasks)


def test_an_unconditional_model_gives_per_class_images_in_all():
    card = model_card(conditional=False)
    assert wanted_classes(request(), card) is None
    assert plan_shards(request(per_class=4), card)[-1].stop == 4


@pytest.mark.parametrize("asked", [{"classes": (0,)}, {"guidance_scale": 2.0}])
@pytest.mark.parametrize("card", [model_card(conditional=False), model_card(None)])
def test_classes_and_guidance_are_refused_without_labels(asked, card):
    with pytest.raises(InputError, match="knows no classes"):
        plan_shards(request(**asked), card)


@pytest.mark.parametrize("classes", [(3,), (-1,), (), (1, 1)])
def test_classes_must_be_distinct_ones_that_the_model_knows(classes):
    with pytest.raises(InputError, match="distinct numbers from 0 to 2"):
        plan_shards(request(classes=classes), model_card())


def test_guidance_is_refused_where_the_null_condition_was_never_trained():
    with pytest.raises(InputError, match="drop_label 0"):
        plan_shards(request(guidance_scale=1.5), model_card(drop_label=0.0))
    assert plan_shards(request(), model_card(drop_label=0.0))


@pytest.mark.parametrize("kind", ["multivariate", "adaptive"])
def test_what_asks_for_one_gamma_is_refused_where_each_pixel_has_its_own(kind):
    card = model_card(schedule={"kind": kind})
    for wrong in (
        {"sampler": "heun"},
        {"sampler": "dpmpp_2m"},
        {"grid": "gamma"},
        {"gamma_interval": (-5.0, 0.0), "guidance_scale": 2.0},
    ):
        with pytest.raises(InputError, match=rf"{next(iter(wrong))}.*\({kind}\) has one for each"):
            plan_shards(request(**wrong), card)
    assert plan_shards(request(sampler="ddim", clip="static", guidance_scale=2.0), card)


def test_identity_has_what_the_shards_depend_on_and_nothing_else():
    """Batch size, pool, paths and the grid may change between two calls; all else may not."""
    base = plan_identity(request(), model_card())
    free = {"batch_size": 3, "pool": PoolConfig(actors=2), "output": "p", "grid_columns": 2}
    assert plan_identity(request(**free, model="n", root="/", overwrite=True), model_card()) == base
    assert plan_identity(request(classes=(0, 1, 2)), model_card()) == base  # null means all
    others = [
        *(plan_identity(request(**change), model_card()) for change in (
            {"per_class": 5}, {"classes": (1,)}, {"seed": 1}, {"sampler": "ddim"}, {"steps": 9},
            {"guidance_scale": 2.0}, {"samples_per_shard": 3}, {"grid": "gamma"},
            {"clip": "static"}, {"guidance_scale": 2.0, "gamma_interval": (-5, 0)},
        )),
        plan_identity(request(), model_card(sha="cd")),
        plan_identity(request(), model_card(step=8)),
        plan_identity(request(), model_card(prediction="v")),
    ]  # fmt: skip
    assert all(other != base for other in others)


def test_a_changed_request_is_refused_with_both_values(output):
    """Samples of two requests never mix, and nothing of the first is touched."""
    open_output(output, plan_identity(request(), model_card()), overwrite=False)
    before = (output / PLAN).read_bytes()
    with pytest.raises(InputError, match=r"steps: 250 there, 9 now") as refused:
        open_output(output, plan_identity(request(steps=9), model_card()), overwrite=False)
    assert "overwrite=true" in str(refused.value)
    assert (output / PLAN).read_bytes() == before


def test_the_same_request_continues_and_a_finished_one_says_so(output, write):
    tasks = plan_shards(request(per_class=1, samples_per_shard=1), model_card())
    identity = plan_identity(request(per_class=1, samples_per_shard=1), model_card())
    assert not open_output(output, identity, overwrite=False)
    for task in tasks:
        write(task.shard)
    assert not open_output(output, identity, overwrite=False)
    finish_samples(output, tasks, identity, model_card())
    assert open_output(output, identity, overwrite=False)
    assert open_output(output, identity, overwrite=True), "the same samples need no overwriting"


def test_overwrite_deletes_samples_of_another_request(output, write):
    open_output(output, plan_identity(request(), model_card()), overwrite=False)
    write("shard-000000.tar")
    (output / DATASET).write_bytes(b"{}")
    identity = plan_identity(request(steps=9), model_card())
    assert not open_output(output, identity, overwrite=True)
    assert output.files(recursive=True) == [PLAN]
    assert json.loads((output / PLAN).read_bytes()) == identity


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_something_else_is_refused_and_left_alone(output, overwrite):
    """`overwrite` is no permission to delete what this job has not written."""
    (output / "thesis.tex").write_bytes(b"x")
    with pytest.raises(InputError, match="not empty and holds no sample set"):
        open_output(output, plan_identity(request(), model_card()), overwrite=overwrite)
    assert output.files() == ["thesis.tex"]


def test_a_damaged_plan_is_an_input_error(output):
    (output / PLAN).write_bytes(b"{")
    with pytest.raises(InputError, match="damaged"):
        open_output(output, plan_identity(request(), model_card()), overwrite=False)


def test_a_shard_counts_when_its_row_is_there_and_its_size_right(output, write):
    """What a kill can leave is not taken for a finished shard: no row, half a row, half a tar."""
    for k in range(4):
        write(f"shard-{k:06d}.tar")
    (output / ROWS / "shard-000001.tar.json").delete()
    (output / ROWS / "shard-000001.tar.json.0123abcd.tmp").write_bytes(b'{"sha')
    (output / "shard-000002.tar").write_bytes(b"short")
    (output / "shard-000003.tar").delete()
    assert list(finished_rows(output)) == ["shard-000000.tar"]


def test_rows_survive_the_journey_through_json(output):
    row = write_shard(
        output,
        "shard-000000.tar",
        [ShardSample("a", b"x", "png", 2), ShardSample("b", b"y", "png", 0)],
    )
    keep_row(output, row)
    assert finished_rows(output) == {row.shard: row}


def test_a_set_with_a_lost_shard_is_not_finished(output, write):
    """`dataset.json` appears only when every shard of the plan is there."""
    config = request(per_class=1, samples_per_shard=1)
    tasks, identity = plan_shards(config, model_card()), plan_identity(config, model_card())
    write(tasks[0].shard)
    with pytest.raises(RuntimeError, match=tasks[1].shard):
        finish_samples(output, tasks, identity, model_card())
    assert (output / DATASET).size() is None
