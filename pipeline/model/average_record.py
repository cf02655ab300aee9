"""Which moving average the weights of a model are, as its card says it."""

from pydantic import Field

from pipeline.config.average import AverageConfig


class AverageRecord(AverageConfig):
    """Which moving average weights are, and how it was had."""

    post_hoc_averages: int | None = Field(
        None, description="From so many kept averages, after training; null: kept in training."
    )
    post_hoc_error: float | None = Field(
        None, description="|| profile - wished profile || / || wished profile ||."
    )

    @property
    def label(self) -> str:
        """Its name, and what it was made from, where that matters."""
        made = self.post_hoc_averages
        return self.name if made is None else f"{self.name} from {made} averages"

    @property
    def text(self) -> str:
        """In words."""
        if self.width is None:
            return f"moving average of decay {self.decay}" if self.decay else "live, no average"
        kind = f"power-function average of relative width {self.width}"
        if self.post_hoc_error is None:
            return kind
        return (
            f"{kind}, put together after training from {self.post_hoc_averages} averages, "
            f"its profile off by {self.post_hoc_error:.2%}"
        )
