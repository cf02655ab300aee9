"""What is asked for, held against the model: rows it can draw, guidance and walks it can do."""

import numpy as np
from numpy.typing import NDArray

from pipeline.config.ladder import HierarchicalVAEConfig, LatentVDMConfig, VAEConfig
from pipeline.config.model import ModelConfig, ScheduleConfig
from pipeline.config.sample import SampleConfig
from pipeline.errors import InputError
from pipeline.model.export import ModelCard
from pipeline.sampling.requests import read_requests
from pipeline.sampling.rows import ClassTurns, HeldRows
from pipeline.storage import open_storage
from vdm_core.labels import NO_LABEL


def scales_of(rows: ClassTurns | HeldRows) -> NDArray[np.float64]:
    """Every guidance scale that occurs."""
    return rows.columns.scales if isinstance(rows, HeldRows) else np.array([rows.scale])


def asked_rows(config: SampleConfig, classes: int | None) -> ClassTurns | HeldRows:
    """The rows of a request to a model that knows so many classes, or None.

    Raises:
        InputError: classes that the model does not know, or requests that mean nothing.
    """
    if config.requests is not None:
        file = open_storage(config.path(config.requests))
        return read_requests(
            file,
            classes=classes,
            guidance_scale=config.guidance_scale,
            seed=config.seed,
        )
    return ClassTurns(_counts(config, classes), config.seed, config.guidance_scale)


def _counts(config: SampleConfig, known: int | None) -> tuple[tuple[int, int], ...]:
    """(class, images) for each class wanted; (-1, images) for a model that knows none."""
    asked = tuple(config.counts) if config.counts is not None else config.classes
    if known is None:
        if asked is not None or config.per_class is None:
            raise InputError(
                f"model {config.model} knows no classes; leave classes and counts out and give "
                "per_class, the number of images in all"
            )
        return ((NO_LABEL, config.per_class),)
    classes = tuple(range(known)) if asked is None else asked
    wrong = [label for label in classes if not 0 <= label < known]
    if wrong or not classes or len(set(classes)) != len(classes):
        name = "classes" if config.counts is None else "counts of classes"
        raise InputError(f"{name} {list(classes)}: give distinct numbers from 0 to {known - 1}")
    if config.counts is not None:
        return tuple(config.counts.items())
    assert config.per_class is not None
    return tuple((label, config.per_class) for label in classes)


def check_guidance(config: SampleConfig, card: ModelCard, rows: ClassTurns | HeldRows) -> None:
    """Refuse classifier-free guidance of a model that has nothing to be free of.

    Raises:
        InputError: it is a VAE, knows no classes, or never did without one.
    """
    if config.guidance != "classifier_free" or bool((scales_of(rows) == 1.0).all()):
        return
    if isinstance(card.model, VAEConfig | HierarchicalVAEConfig):
        raise InputError(
            f"model {config.model} is a {card.model.kind}, which has no noise levels to guide at; "
            "leave guidance_scale out of the requests"
        )
    if not card.model.conditional or card.classes is None:
        raise InputError(
            f"model {config.model} knows no classes; leave guidance_scale at 1, or take "
            "guidance=autoguidance or classifier"
        )
    if card.model.drop_label == 0.0:
        raise InputError(
            f"model {config.model} was trained with drop_label 0, so it never learned to do "
            "without a label, which guidance needs; leave guidance_scale at 1"
        )


WALK_FIELDS = frozenset({
    "sampler", "steps", "grid", "clip", "guidance", "guidance_scale", "guide", "gamma_interval",
    "sweep",
})  # fmt: skip
"""What of a request says how to walk from noise to an image."""


def check_walk(config: SampleConfig, card: ModelCard) -> None:
    """Refuse a walk that the model cannot do.

    Raises:
        InputError: as the checks of its kind.
    """
    match card.model:
        case ModelConfig():
            _check_pixel_walk(config, card.model.schedule)
        case LatentVDMConfig():
            _check_latent_walk(config)
            _check_pixel_walk(config, card.model.schedule)
        case VAEConfig() | HierarchicalVAEConfig():
            _check_no_walk(config, card.model.kind)


def _check_no_walk(config: SampleConfig, kind: str) -> None:
    """Refuse all settings of a walk: a VAE draws its latents and decodes them, in one go."""
    if asked := sorted(WALK_FIELDS & config.model_fields_set):
        raise InputError(
            f"{', '.join(asked)}: model {config.model} is a {kind}, which draws latents and "
            "decodes them, without noise levels to walk along or guide at; leave "
            f"{'it' if len(asked) == 1 else 'them'} out"
        )


def _check_latent_walk(config: SampleConfig) -> None:
    """Refuse what is of pixels."""
    if config.clip is not None:
        raise InputError(
            f"clip={config.clip} keeps pixels in their range, and model {config.model} walks among "
            "latents, which have none; leave it out"
        )
    if config.guidance != "classifier_free":
        raise InputError(
            f"guidance={config.guidance}: there is no guide for the latents of model "
            f"{config.model}; take guidance=classifier_free"
        )


def _check_pixel_walk(config: SampleConfig, schedule: ScheduleConfig) -> None:
    """Refuse what needs one γ for all pixels of a schedule that has one for each.

    Raises:
        InputError: a second-order sampler, another grid than t, an interval of guidance.
    """
    if not schedule.per_pixel:
        return
    wrong = [
        text
        for text, asked in (
            (f"sampler={config.sampler}", config.sampler in ("dpmpp_2m", "heun")),
            (f"grid={config.grid}", config.grid != "t"),
            ("gamma_interval", config.gamma_interval is not None),
        )
        if asked
    ]
    if wrong:
        raise InputError(
            f"{', '.join(wrong)}: this takes one γ for all pixels, and "
            f"the schedule of {config.model} ({schedule.kind}) has one for each; take "
            "sampler=ancestral, ddim or pc, grid=t and no gamma_interval"
        )


def check_encoding(config: SampleConfig, card: ModelCard) -> None:
    """Refuse WebP for grey images, which it does not know.

    Raises:
        InputError: names the channels that there are.
    """
    if config.encoding == "webp" and card.shape[0] != 3:
        raise InputError(
            f"encoding=webp stores three channels, and images of {config.model} have "
            f"{card.shape[0]}; take encoding=png"
        )
