"""Guidance from a configuration: the second network is the right one, and its work is counted."""

import numpy as np
import pytest
import torch

from pipeline.config.model import ClassifierConfig
from pipeline.errors import InputError
from pipeline.model.classifier_export import (
    CLASSIFIER_CARD,
    CLASSIFIER_WEIGHTS,
    ClassifierCard,
    classifier_bytes,
    load_classifier,
)
from pipeline.sampling.draw import Claimed
from pipeline.sampling.generate import ShardGenerator
from pipeline.sampling.guide import load_guide
from pipeline.sampling.plan import load_for, plan_set
from pipeline.storage import open_storage
from vdm_core import sample
from vdm_core.guidance import Autoguidance, Classifier
from vdm_core.networks.classifier import NoiseAwareClassifier

CLASSIFIER = ClassifierConfig(width=8, multipliers=(1, 2))


@pytest.fixture
def classifier(tmp_path, request_of):
    """classifier(model=…, setting=…): the folder of a classifier of random weights for a model."""

    def write(model: str | None = None, name: str = "classifier", **changes) -> str:
        own = load_for(request_of("unused", **({"model": model} if model else {})))
        card = ClassifierCard(
            network=CLASSIFIER, shape=own.card.shape, classes=3, class_names=("a", "b", "c"),
            schedule_sha256=own.card.schedule_sha256,
        ).model_copy(update=changes)  # fmt: skip
        network = NoiseAwareClassifier(card.shape[0], card.classes, 8, (1, 2))
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
        for file, data in classifier_bytes(network.state_dict(), card).items():
            (open_storage(str(tmp_path / name)) / file).write_bytes(data)
        return str(tmp_path / name)

    return write


def images(samples) -> np.ndarray:
    return samples.images(range(len(samples)))


def drawn_by_library(request, guidance) -> np.ndarray:
    """The same fifteen samples by `vdm_core` alone."""
    loaded = load_for(request)
    ids = torch.arange(15)
    return sample(
        loaded.model, ids, ids % 3, shape=(1, 8, 8), steps=request.steps, guidance=guidance
    ).numpy()


def test_autoguidance_is_that_of_the_weaker_model(draw, request_of, tmp_path, export):
    weaker = export(tmp_path / "weaker", seed=1)
    asked = {"guidance": "autoguidance", "guide": weaker, "guidance_scale": 2.0}
    vdm = load_for(request_of("unused", model=weaker)).model
    expected = drawn_by_library(request_of("unused"), Autoguidance(vdm, 2.0))
    assert np.abs(images(draw("s", **asked)).astype(int) - expected).max() <= 1
    by_itself = draw("t", **(asked | {"guide": request_of("unused").model}))
    plain = images(draw("u", guidance_scale=1.0))
    assert np.abs(images(by_itself).astype(int) - plain).max() <= 1


@pytest.mark.parametrize("conditional", [True, False])
def test_classifier_guidance_is_that_of_the_classifier(
    draw, request_of, tmp_path, export, classifier, conditional
):
    """A model without classes draws those of its classifier."""
    model = export(tmp_path / "m", conditional=conditional)
    guide = classifier(model)
    request = request_of(
        "s", model=model, guidance="classifier", guide=guide, guidance_scale=4.0
    )  # fmt: skip
    network, _ = load_classifier(open_storage(guide))
    expected = drawn_by_library(request, Classifier(network, 4.0))
    samples = draw("s", **request.model_dump(exclude={"output", "root"}))
    assert np.abs(images(samples).astype(int) - expected).max() <= 1
    assert samples.manifest(["class"])["class"].to_pylist()[:3] == [0, 1, 2][: len(samples)]
    unguided = draw("t", model=model, guidance_scale=1.0)
    assert not np.array_equal(images(samples)[:5], images(unguided)[:5])


def test_a_guide_is_part_of_the_identity_by_its_digest(request_of, tmp_path, export):
    def identity(seed: int):
        weaker = export(tmp_path / f"weaker {seed}", seed=seed)
        config = request_of("s", guidance="autoguidance", guide=weaker)
        return plan_set(config, load_for(config)).identity

    assert identity(1) != identity(2)
    assert identity(1) == identity(1)


def test_a_classifier_of_another_schedule_is_refused_with_both_digests(
    request_of, tmp_path, export, classifier
):
    other = export(tmp_path / "other", schedule={"gamma_0": -12.0})
    config = request_of("s", guidance="classifier", guide=classifier(other))
    with pytest.raises(InputError, match=r"schedule_sha256 is [0-9a-f]{64} there and [0-9a-f]{64}"):
        load_for(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"classes": 4}, "classes is 4 there and 3"), ({"shape": (3, 8, 8)}, "shape is")],
)
def test_a_classifier_of_other_images_is_refused(request_of, classifier, change, message):
    config = request_of("s", guidance="classifier", guide=classifier(**change))
    with pytest.raises(InputError, match=message):
        load_for(config)


@pytest.mark.parametrize("change", [{"conditional": False}, {"channels": 3}])
def test_a_weaker_model_of_other_images_or_classes_is_refused(request_of, tmp_path, export, change):
    weaker = export(tmp_path / "weaker", **change)
    config = request_of("s", guidance="autoguidance", guide=weaker)
    with pytest.raises(InputError, match=r"guide .*weaker"):
        load_for(config)


@pytest.mark.parametrize(
    ("file", "data", "message"),
    [
        (CLASSIFIER_CARD, None, "there is no classifier.json"),
        (CLASSIFIER_CARD, b"{}", "not a classifier card"),
        (CLASSIFIER_WEIGHTS, None, "is missing beside"),
        (CLASSIFIER_WEIGHTS, b"weights", "does not match the digest"),
    ],
)
def test_a_missing_or_damaged_classifier_is_refused(request_of, classifier, file, data, message):
    config = request_of("s", guidance="classifier", guide=classifier())
    place = open_storage(config.guide) / file
    place.delete()
    if data is not None:
        place.write_bytes(data)
    with pytest.raises(InputError, match=message):
        load_for(config)


def test_weights_of_another_classifier_are_refused(request_of, classifier):
    """They match their digest but not the network of the card."""
    folder = classifier(network=ClassifierConfig(width=16))
    config = request_of("s", guidance="classifier", guide=folder)
    card = load_for(request_of("t")).card
    with pytest.raises(InputError, match="does not fit its own card"):
        load_guide(config, card)


# NFE


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"guidance_scale": 1.0}, 6),
        ({"guidance_scale": 0.0}, 6),
        ({"guidance_scale": 2.0}, 12),
        ({"guidance_scale": 2.0, "sampler": "heun"}, 24),
        ({"guidance_scale": 1.0, "sampler": "pc"}, 12),
        ({"guidance_scale": 2.0, "sampler": "ddim", "gamma_interval": (-5.0, 3.0)}, 6 + 3),
    ],
)
def test_nfe_is_what_the_network_is_asked_for_a_sample(request_of, asked, expected):
    """The plan's figure, by arithmetic, and what the network of an actor counts."""
    config = request_of("s", steps=6, per_class=2, **asked)
    plan = plan_set(config, load_for(config))
    assert plan.nfe == expected
    claimed = Claimed(plan, 0)
    generator = ShardGenerator([claimed.cell()], plan.model.place.url)
    seen = []
    generator.model.network.register_forward_pre_hook(lambda _, a: seen.append(len(a[0])))
    (task,) = claimed.missing
    generator(vars(task))
    assert sum(seen) == 6 * expected


def test_nfe_counts_the_weaker_model_and_not_a_classifier(request_of, tmp_path, export, classifier):
    weaker = export(tmp_path / "weaker", seed=1)
    for guidance, guide, expected in (
        ("autoguidance", weaker, 6),
        ("classifier", classifier(), 3),
    ):
        config = request_of("s", guidance=guidance, guide=guide, guidance_scale=2.0)
        assert plan_set(config, load_for(config)).nfe == expected
