"""Which averages can be asked for, what they are called, and how they decay."""

import pytest

from pipeline.config.average import AverageConfig
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
