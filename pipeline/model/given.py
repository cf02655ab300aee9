"""What a model takes from one that is trained already, as it is: a VDM's schedule, or a VAE."""

from dataclasses import dataclass

from torch import Tensor

from pipeline.config.average import AverageConfig
from pipeline.config.ladder import VAEConfig
from pipeline.config.model import ScheduleConfig
from pipeline.errors import InputError
from pipeline.model.build import build_schedule
from pipeline.model.export import ModelCard, load_model, load_vdm, newest_model
from pipeline.storage import Location
from vdm_core import Schedule


@dataclass(frozen=True)
class Given:
    """What is common: where it is from, its digest, and the images that its model is of.

    `weights`: its state dict. `classes`: those that the model is told; None for an unconditional
    one.
    """

    weights: dict[str, Tensor]
    sha256: str
    place: str
    shape: tuple[int, int, int]
    levels: int
    classes: int | None

    def check_images(self, shape: tuple[int, int, int], classes: int | None, levels: int) -> None:
        """Refuse data that its model is not of.

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
                    "the model of these images"
                )


@dataclass(frozen=True)
class FrozenSchedule(Given):
    """The noise schedule of a VDM, for a classifier of its latents; `sha256`: `schedule_digest`."""

    config: ScheduleConfig
    text = "on the frozen schedule of"

    def build(self) -> Schedule:
        """The schedule, as trained."""
        schedule = build_schedule(self.config, self.shape)
        schedule.load_state_dict(self.weights)
        return schedule


@dataclass(frozen=True)
class FrozenVAE(Given):
    """A VAE, for a VDM of its latents; `sha256` is that of its card's weights."""

    config: VAEConfig
    text = "of the latents of"


def read_schedule(folder: Location, ema: AverageConfig | None) -> FrozenSchedule:
    """That of the model in `folder`, as in an average of its weights (None: the run's first).

    Raises:
        InputError: no VDM or no such average is there, or it is damaged, or its schedule adapts to
            the image, so that no classifier can be shown its latents.
    """
    place = newest_model(folder)
    vdm, card = load_vdm(place, ema)
    if card.model.schedule.kind == "adaptive":
        raise InputError(
            f"model.of={folder}: an adaptive schedule has a latent of its own for each image, "
            "which no classifier infers; give a VDM with another schedule"
        )
    return FrozenSchedule(
        weights=vdm.schedule.state_dict(),
        sha256=card.schedule_sha256,
        place=str(place),
        shape=card.shape,
        levels=card.levels,
        classes=_told(card),
        config=card.model.schedule,
    )


def read_vae(folder: Location, ema: AverageConfig | None) -> FrozenVAE:
    """The VAE in `folder`, with an average of its weights (None: the run's first).

    Raises:
        InputError: no VAE or no such average is there, or it is damaged.
    """
    place = newest_model(folder)
    vae, card = load_model(place, ema)
    if not isinstance(card.model, VAEConfig):
        raise InputError(f"model.of={folder} is a {card.model.kind}, and a VAE is needed here")
    return FrozenVAE(
        weights=vae.state_dict(),
        sha256=card.weights_sha256,
        place=str(place),
        shape=card.shape,
        levels=card.levels,
        classes=_told(card),
        config=card.model,
    )


def _told(card: ModelCard) -> int | None:
    return card.classes if card.model.conditional else None
