"""The noise schedule of a trained VDM, taken out of it for a classifier of its latents."""

from dataclasses import dataclass

from torch import Tensor

from pipeline.config.average import AverageConfig
from pipeline.config.model import ScheduleConfig
from pipeline.errors import InputError
from pipeline.model.build import build_schedule
from pipeline.model.export import load_model, newest_model
from pipeline.storage import Location
from vdm_core import Schedule


@dataclass(frozen=True)
class FrozenSchedule:
    """A schedule, its digest (`schedule_digest`), and the images that its VDM is of.

    `weights`: its state dict. `classes`: those that the VDM is told; None for an unconditional one.
    """

    config: ScheduleConfig
    weights: dict[str, Tensor]
    sha256: str
    place: str
    shape: tuple[int, int, int]
    levels: int
    classes: int | None

    def build(self) -> Schedule:
        """The schedule, as trained."""
        schedule = build_schedule(self.config, self.shape)
        schedule.load_state_dict(self.weights)
        return schedule

    def check_images(self, shape: tuple[int, int, int], classes: int | None, levels: int) -> None:
        """Refuse data that the VDM is not of.

        Raises:
            InputError: names what differs.
        """
        for name, own, theirs in (
            ("shape", self.shape, shape),
            ("levels", self.levels, levels),
            ("classes", self.classes or classes, classes),
        ):
            if own != theirs:
                raise InputError(
                    f"model.of={self.place}: {name} is {own} there and {theirs} in the data; give "
                    "the VDM of these images"
                )


def read_schedule(folder: Location, ema: AverageConfig | None) -> FrozenSchedule:
    """That of the model in `folder`, as in an average of its weights (None: the run's first).

    Raises:
        InputError: no VDM or no such average is there, or it is damaged, or its schedule adapts to
            the image, so that no classifier can be shown its latents.
    """
    place = newest_model(folder)
    vdm, card = load_model(place, ema)
    if card.model.schedule.kind == "adaptive":
        raise InputError(
            f"model.of={folder}: an adaptive schedule has a latent of its own for each image, "
            "which no classifier infers; give a VDM with another schedule"
        )
    return FrozenSchedule(
        config=card.model.schedule,
        weights=vdm.schedule.state_dict(),
        sha256=card.schedule_sha256,
        place=str(place),
        shape=card.shape,
        levels=card.levels,
        classes=card.classes if card.model.conditional else None,
    )
