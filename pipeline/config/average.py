"""Which moving average of the weights: what a run keeps, and what others ask of a run."""

from pydantic import Field, model_validator

from pipeline.config.base import ConfigModel
from vdm_core.ema import ema_decay
from vdm_core.ema_power import WIDEST, power_decay


class AverageConfig(ConfigModel):
    """A moving average of all weights, the schedule's included: give its decay or its width."""

    decay: float | None = Field(
        None, ge=0, lt=1, description="Share of the average that a step keeps; 0 is no average."
    )
    width: float | None = Field(
        None,
        gt=0,
        le=WIDEST,
        description="Length as a share of the steps so far, a standard deviation: 0.05 is short, "
        "0.1 usual, 0.2887 the mean of all steps (Karras et al. 2024).",
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> "AverageConfig":
        if (self.decay is None) == (self.width is None):
            raise ValueError("give one of decay and width, as in {decay: 0.9999} or {width: 0.1}")
        return self

    @property
    def name(self) -> str:
        """Its name in files and messages, as `decay_0.9999` or `width_0.1`."""
        return f"decay_{self.decay}" if self.width is None else f"width_{self.width}"

    def decay_at(self, step: int) -> float:
        """The decay at optimizer step 0, 1, …."""
        if self.width is not None:
            return power_decay(step, self.width)
        assert self.decay is not None
        return ema_decay(step, self.decay)
