"""Which averages can be asked for, what they are called, and how they decay."""

import pytest

from pipeline.config.average import AverageConfig
from pipeline.config.evaluate import EvaluateConfig
from pipeline.config.load import load_config
from pipeline.config.train import TrainConfig
from pipeline.errors import InputError
from vdm_core.ema import ema_decay
from vdm_core.ema_power import power_decay


def test_each_kind_has_its_own_decay_and_name() -> None:
    constant, power = AverageConfig(decay=0.999), AverageConfig(width=0.05)
    assert (constant.name, power.name) == ("decay_0.999", "width_0.05")
    for step in (0, 5, 100_000):
        assert constant.decay_at(step) == ema_decay(step, 0.999)
        assert power.decay_at(step) == power_decay(step, 0.05)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "give one of decay and width"),
        ({"decay": 0.9, "width": 0.1}, "give one of decay and width"),
        ({"decay": 1.0}, "less than 1"),
        ({"decay": -0.1}, "greater than or equal to 0"),
        ({"width": 0.0}, "greater than 0"),
        ({"width": 0.3}, "less than or equal to 0.288"),
    ],
)
def test_what_is_no_average_is_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AverageConfig(**fields)


TRAIN = [
    "name=x", "steps=10", "data={train: set, batch_size: 8}",
    "model.network={kind: downsampling_unet, width: 16, blocks: 3}",
]  # fmt: skip


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.ema=[]", "optimizer.ema: Tuple should have at least 1 item"),
        ("optimizer.ema=[{decay: 0.9}, {decay: 0.9}]", "the same average twice among decay_0.9"),
        ("optimizer.ema=[{width: 0.5}]", "optimizer.ema.0.width: Input should be less than"),
        ("optimizer.ema_decay=0.9", "optimizer.ema_decay: unknown key; did you mean"),
        ("checkpoint.ema_every=2", "optimizer.ema has none: add {width: 0.05}"),
    ],
)
def test_a_run_that_keeps_no_sense_is_refused(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config(TrainConfig, [], [*TRAIN, override])


def test_models_are_evaluated_with_one_average_or_each_with_its_own() -> None:
    """Written alone or as a list; another number than that of the models is refused."""

    def averages(*overrides: str) -> list[str | None]:
        given = ["model=[a, b]", "data=d", "output=o", *overrides]
        config = load_config(EvaluateConfig, [], given)
        found = [config.average_of(number) for number in range(2)]
        return [None if average is None else average.name for average in found]

    assert averages() == [None, None]
    assert averages("ema.width=0.1") == ["width_0.1", "width_0.1"]
    assert averages("ema=[{decay: 0}, {width: 0.1}]") == ["decay_0.0", "width_0.1"]
    with pytest.raises(InputError, match="ema has 3 averages for 2 models"):
        averages("ema=[{decay: 0}, {width: 0.1}, {width: 0.2}]")
