"""A configuration is exactly what was asked for, or one message that says all that is wrong."""

from pathlib import Path

import pytest

from pipeline.config.base import ConfigModel
from pipeline.config.evaluate import EvaluateConfig
from pipeline.config.load import load_config
from pipeline.config.model import (
    DownsamplingUNetConfig,
    ModelConfig,
    ScheduledClassifierConfig,
    UNetConfig,
)
from pipeline.config.plan import PlanConfig
from pipeline.config.prepare import PrepareConfig
from pipeline.config.quality import GateJobConfig, QualityConfig, TrainFeaturesConfig
from pipeline.config.rungs import LadderConfig
from pipeline.config.sample import SampleConfig
from pipeline.config.train import TrainConfig
from pipeline.errors import InputError

PRESETS = Path(__file__).resolve().parents[3] / "jobs/presets"
SCHEMAS: dict[str, type[ConfigModel]] = {
    "prepare": PrepareConfig,
    "sample": SampleConfig,
    "sweep": SampleConfig,
    "evaluate": EvaluateConfig,
    "features": TrainFeaturesConfig,
    "quality": QualityConfig,
    "gate": GateJobConfig,
    "ladder": LadderConfig,
    "cluster": PlanConfig,
}
BASE = [
    "name=x",
    "steps=10",
    "data={train: set, batch_size: 8}",
    "model.network={kind: downsampling_unet, width: 16, blocks: 3}",
]


BOMB = "a0: &a0 [x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
)


def load(*overrides: str, files: list[str] | None = None) -> TrainConfig:
    """The base configuration with `overrides`."""
    return load_config(TrainConfig, files or [], [*BASE, *overrides])


def message(*overrides: str) -> str:
    """What is said about `overrides`."""
    with pytest.raises(InputError) as caught:
        load(*overrides)
    return str(caught.value)


@pytest.mark.parametrize("preset", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_presets_load(preset: Path) -> None:
    """Every shipped preset is valid for its job."""
    kind = preset.stem.rpartition("_")[2]
    before = [str(PRESETS / "fashion_mnist_cpu.yaml")] if kind == "cluster" else []
    load_config(SCHEMAS.get(kind, TrainConfig), [*before, str(preset)], [])


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("stepz=3", "stepz: unknown key; did you mean steps?"),
        ("data.batchsize=3", "data.batchsize: unknown key; did you mean data.batch_size?"),
        ("model.network.widht=3", "model.network.widht: unknown key; did you mean model.network.w"),
        ("learning_rate=3", "learning_rate: unknown key; did you mean optimizer.learning_rate?"),
        ("data.qqq=3", "data.qqq: unknown key; valid are balance, batch_size"),
        ("data.train=3", "data.train: Input should be a valid tuple (given: 3)"),
        (
            "data.train=[{path: a, wieght: 2}]",
            "data.train.0.wieght: unknown key; did you mean data.",
        ),
        ("data.train=[{path: a, weight: 0}]", "data.train.0.weight: Input should be greater than"),
        ("data.train=[]", "data.train: Tuple should have at least 1 item"),
        ("model.network.multipliers=3", "model.network.multipliers: Input should be a valid tuple"),
        ("model.network={kind: unett}", "model.network: Input tag 'unett' found using 'kind' does"),
        ("optimizer.betas=[0.9, 1.5]", "optimizer.betas.1: Input should be less than 1 (given: 1."),
        ("steps=many", "steps: Input should be a valid integer, unable to parse string as an int"),
        ("optimizer.eps=.nan", "optimizer.eps: Input should be a finite number"),
        ("steps", "override 'steps' is not of the form key=value (for example steps=100)"),
        ("x/run.yaml", "(for example steps=100); a file is given by --config x/run.yaml"),
        ("a..b=1", "override 'a..b=1' is not of the form key=value"),
        ("steps=[1", "override 'steps=[1': the value is not valid YAML"),
        ("data={lanes: 1, lanes: 2}", "key 'lanes' appears twice"),
        ("model.schedule.gamma_1=-20", "model.schedule: gamma_1 (-20.0) must be above gamma_0"),
        ("cluster.workers=3", "data.batch_size (8) must be a multiple of cluster.workers (3)"),
        ("data.micro_batch=3", "data.batch_size / cluster.workers (8) must be a multiple of data."),
        ("data.micro_batch=16", "must be a multiple of data.micro_batch (16)"),
    ],
)
def test_names_the_mistake_and_the_remedy(override: str, expected: str) -> None:
    """The key as it was written, without pydantic's union tags, and what is valid instead."""
    assert expected in message(override)


def test_reports_all_mistakes_at_once() -> None:
    """One message for a malformed override, a missing file, unknown keys and a wrong type."""
    with pytest.raises(InputError) as caught:
        load_config(TrainConfig, ["missing.yaml"], [*BASE, "bad", "stepz=3", "seed=x", "data.l=1"])
    lines = str(caught.value).splitlines()
    assert len(lines) == 6
    assert "config file missing.yaml does not exist" in lines[1]


def test_a_missing_file_is_not_followed_by_all_that_it_would_have_held() -> None:
    """One line for the file, and none for each field that it would have given."""
    with pytest.raises(InputError) as caught:
        load_config(TrainConfig, ["missing.yaml"], [])
    assert len(str(caught.value).splitlines()) == 2


def test_what_is_required_is_named_with_what_it_is() -> None:
    """And where all of it can come from; what to add, where that is a file of its own."""
    with pytest.raises(InputError) as caught:
        load_config(TrainConfig, [], ["name=x", "data={train: set, batch_size: 8}"])
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert lines[1] == "steps: required. Optimizer steps in the whole run."
    assert lines[-1] == "no --config FILE was given; --help shows examples"
    with pytest.raises(InputError, match=r"hardware: required.* add --config (\S+), or") as caught:
        load_config(PlanConfig, [str(PRESETS / "fashion_mnist_cpu.yaml")], [])
    assert (PRESETS.parents[1] / "jobs/presets/h100_cluster.yaml").is_file()
    assert "jobs/presets/h100_cluster.yaml" in str(caught.value)


def test_a_presets_name_alone_leads_to_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the project's folder, where the commands are given."""
    monkeypatch.chdir(PRESETS.parents[1])
    with pytest.raises(InputError, match=r"did you mean jobs/presets/cifar10_paper\.yaml\?"):
        load(files=["cifar10_paper.yaml"])


def test_later_wins(tmp_path: Path) -> None:
    """Overrides beat files, a later file beats an earlier one, and nested keys are merged."""
    (tmp_path / "a.yaml").write_text("steps: 1\nseed: 1\noptimizer: {eps: 1e-7, warmup_steps: 7}\n")
    (tmp_path / "b.yaml").write_text("seed: 2\noptimizer: {learning_rate: 3e-4}\n")
    config = load(files=[str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")])
    assert (config.steps, config.seed) == (10, 2)
    optimizer = config.optimizer
    assert (optimizer.eps, optimizer.warmup_steps, optimizer.learning_rate) == (1e-7, 7, 3e-4)


def test_numbers_are_yaml_1_2() -> None:
    """2e-4 is a number wherever it stands, and 2e3 may be an integer field's value."""
    config = load("optimizer.learning_rate=2e-4", "steps=2e3", "deepspeed.config={x: [1e5, .5e+1]}")
    assert config.optimizer.learning_rate == 2e-4
    assert config.steps == 2000
    assert config.deepspeed.config == {"x": [1e5, 5.0]}


def test_another_kind_drops_the_fields_of_the_first(tmp_path: Path) -> None:
    """A U-Net of another kind does not inherit the width of the one in the file, in any order."""
    file = tmp_path / "base.yaml"
    file.write_text("model: {network: {kind: downsampling_unet, width: 16, attention_levels: 1}}")
    rest = ["name=x", "steps=1", "data={train: s, batch_size: 8}"]
    for own in (
        ["model.network.kind=unet", "model.network.blocks=2"],
        ["model.network.blocks=2", "model.network.kind=unet"],
    ):
        network = load_config(TrainConfig, [str(file)], [*rest, *own]).model.network
        assert network == UNetConfig(kind="unet", width=128, blocks=2)
    same = load_config(TrainConfig, [str(file)], [*rest, "model.network.blocks=4"]).model.network
    assert isinstance(same, DownsamplingUNetConfig)
    assert (same.width, same.blocks, same.attention_levels) == (16, 4, 1)


def test_a_block_without_kind_is_of_the_usual_one(tmp_path: Path) -> None:
    """A classifier asked for over a VDM's file has nothing of that VDM, which says no kind."""
    file = tmp_path / "base.yaml"
    file.write_text("model: {network: {kind: unet}, drop_label: 0.2}")
    rest = ["name=x", "steps=1", "data={train: s, batch_size: 8}"]
    over = load_config(TrainConfig, [str(file)], [*rest, "model={kind: classifier, of: v}"])
    assert over.model == ScheduledClassifierConfig(kind="classifier", of="v")
    same = load_config(TrainConfig, [str(file)], [*rest, "model={kind: vdm, steps: 9}"]).model
    assert isinstance(same, ModelConfig)
    assert (same.drop_label, same.steps) == (0.2, 9)


def test_a_kind_with_the_same_fields_keeps_them() -> None:
    """The ends of γ stay when the schedule becomes monotone: both kinds have them."""
    schedule = load("model.schedule.gamma_0=-9", "model.schedule.kind=monotone").model.schedule
    assert (schedule.kind, schedule.gamma_0) == ("monotone", -9)


def test_an_alias_stands_for_what_it_names(tmp_path: Path) -> None:
    """Programs that dump an object twice write one."""
    file = tmp_path / "aliases.yaml"
    file.write_text("optimizer: {learning_rate: &rate 3.0e-4, schedule_learning_rate: *rate}")
    assert load(files=[str(file)]).optimizer.schedule_learning_rate == 3e-4


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("- 1", "must hold a mapping of keys, not a list"),
        ("a: [", "is not valid YAML"),
        (BOMB, "over 100,000 values"),
        ("a: &a {b: *a}", "an alias within what it stands for"),
        ("a: " + "[" * 5000 + "]" * 5000, "over 30 levels deep"),
        ("steps: " + "9" * 5000, "is not valid YAML"),
        ("a: !!python/object/apply:os.system [x]", "could not determine a constructor"),
    ],
)
def test_bad_files(tmp_path: Path, content: str, expected: str) -> None:
    """A file that is no mapping is named, and a near name is suggested for a missing one."""
    (tmp_path / "base.yaml").write_text(content)
    with pytest.raises(InputError, match=expected):
        load(files=[str(tmp_path / "base.yaml")])
    with pytest.raises(InputError, match=r"did you mean .*base\.yaml"):
        load(files=[str(tmp_path / "bace.yaml")])


def test_micro_batches() -> None:
    """Without micro_batch a worker takes its share in one pass."""
    config = load("cluster.workers=2")
    assert (config.micro_batch, config.accumulation) == (4, 1)
    config = load("cluster.workers=2", "data.micro_batch=1")
    assert (config.micro_batch, config.accumulation) == (1, 4)


def test_a_relative_root_is_settled_where_the_job_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that gets the configuration in another folder finds the same files."""
    monkeypatch.chdir(tmp_path)
    configs = [load(), load("root=.")]
    monkeypatch.chdir("/")
    assert {config.path("runs/a") for config in configs} == {str(tmp_path / "runs/a")}


def test_paths_start_from_root(tmp_path: Path) -> None:
    """URLs and absolute paths are left alone; `~` is the home folder."""
    config = load(f"root={tmp_path}")
    assert config.path("a/b") == str(tmp_path / "a/b")
    assert config.path("s3://bucket/x") == "s3://bucket/x"
    assert config.path("/abs") == "/abs"
    assert config.path("~/x") == str(Path.home() / "x")


def test_a_training_set_is_shown_as_it_was_written() -> None:
    """A path alone is a mixture of one; both forms survive the run's record."""
    alone = load()
    assert [component.path for component in alone.data.train] == ["set"]
    assert alone.model_dump(mode="json")["data"]["train"] == "set"
    mixed = load("data.train=[{path: a, weight: 2}, {path: b, select: {labels: [1]}}]")
    assert [component.weight for component in mixed.data.train] == [2, 1]
    for config in (alone, mixed):
        assert TrainConfig.model_validate_json(config.model_dump_json()) == config
