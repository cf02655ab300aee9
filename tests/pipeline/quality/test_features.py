"""Features of a set: the network's own, in the set's order, however cut; and their names."""

import hashlib

import numpy as np
import pytest
import torch

from pipeline.cluster.kept_ranges import KeptRanges, Range
from pipeline.config.quality import QualityConfig
from pipeline.errors import InputError
from pipeline.model.classifier_export import load_classifier
from pipeline.quality.features import FeatureSet, FeatureWorker, feature_names
from pipeline.quality.inception import InceptionNetwork, read_weights
from pipeline.quality.measure import make_plan
from pipeline.storage import open_storage
from vdm_core.decoder import encode

IMAGES = np.random.default_rng(0).integers(0, 256, (23, 1, 8, 8), dtype=np.uint8)


@pytest.fixture
def config(write_set, classifier, tmp_path):
    data = write_set("data", IMAGES)

    def make(**changes) -> QualityConfig:
        fields = {
            "samples": (data,), "against": {"path": data}, "output": str(tmp_path / "output"),
            "features": {"kind": "classifier", "path": classifier}, "batch_size": 4,
        }  # fmt: skip
        return QualityConfig.model_validate(fields | changes)

    return make


def test_features_are_those_of_the_classifier_on_images_without_noise(config, classifier):
    """What the last layer makes logits of, at the least noise that it knows."""
    worker = FeatureWorker(config(), config().against)
    table = worker(Range(3, 14))
    network, _ = load_classifier(open_storage(classifier))
    z = encode(torch.from_numpy(IMAGES[3:14]), 256)
    with torch.no_grad():
        features = network.features(z, torch.full((11,), -13.3))
        logits = network(z, torch.full((11,), -13.3))
    got = np.array(table["features"].to_pylist())
    assert got == pytest.approx(features.numpy(), rel=1e-4, abs=1e-5)
    again = torch.from_numpy(got).float() @ network.out.weight.T + network.out.bias
    torch.testing.assert_close(again, logits, rtol=1e-4, atol=1e-4)


def test_a_feature_set_gives_its_rows_in_order_and_evenly(config, tmp_path):
    worker = FeatureWorker(config(), config().against)
    at = open_storage(str(tmp_path / "kept"))
    kept = KeptRanges.of_request(at, {}, total=23, size=8)
    for places in reversed(kept.ranges()):
        kept.keep(places, worker(places))
    found = FeatureSet(kept)
    whole = torch.cat(list(found.parts()))
    alone = np.array(worker(Range(0, 23))["features"].to_pylist())
    assert whole.numpy() == pytest.approx(alone, rel=1e-4, abs=1e-5)
    assert torch.equal(found.spread(99), whole)
    assert torch.equal(found.spread(4), whole[[0, 5, 11, 17]])


def test_only_inceptions_distances_are_called_fid_and_kid(config):
    """The others have the network's digest and another name."""
    own = feature_names(config().features, config())
    assert "FID" not in " ".join(own)
    assert "KID" not in " ".join(own)
    assert own.frechet == "classifier Fréchet distance"
    assert own.network.startswith("classifier features ")
    inception = config(features={"kind": "inception", "weights": "w", "sha256": "ab" * 32})
    names = feature_names(inception.features, inception)
    assert (names.frechet, names.kernel) == ("FID", "KID")
    assert names.network == "Inception v3 weights abababababab"


def test_weights_with_another_digest_are_refused(tmp_path):
    """Before anything looks into the file."""
    file = tmp_path / "weights.pth"
    file.write_bytes(b"whatever")
    right = hashlib.sha256(b"whatever").hexdigest()
    assert read_weights(str(file), right) == b"whatever"
    with pytest.raises(InputError, match=r"has SHA-256 .*asks for 0000"):
        read_weights(str(file), "0" * 64)
    with pytest.raises(InputError, match=r"cannot read features.weights=.*missing.pth"):
        read_weights(str(tmp_path / "missing.pth"), right)


def test_inception_without_its_library_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch_fidelity", None)
    with pytest.raises(InputError, match=r"vdm-pipeline\[quality\]"):
        InceptionNetwork("weights.pth", "0" * 64, torch.device("cpu"))


def test_sets_that_cannot_be_compared_are_refused(config, write_set):
    colour = write_set("colour", np.zeros((9, 3, 8, 8), np.uint8))
    with pytest.raises(InputError, match=r"images \(3, 8, 8\), and the classifier .* \(1, 8, 8\)"):
        make_plan(config(samples=(colour,)))
    large = write_set("large", np.zeros((9, 1, 16, 16), np.uint8))
    with pytest.raises(InputError, match=r"against.transform"):
        make_plan(config(samples=(large,)))
    few = write_set("few", np.zeros((3, 1, 8, 8), np.uint8))
    with pytest.raises(InputError, match="has 3 images; distances take 4"):
        make_plan(config(samples=(few,)))
    inception = {"kind": "inception", "weights": "w", "sha256": "0" * 64}
    two = write_set("two", np.zeros((9, 1, 8, 8), np.uint8), levels=2)
    with pytest.raises(InputError, match="of 2 levels, and Inception sees 256"):
        make_plan(config(samples=(two,), features=inception))
    with pytest.raises(InputError, match="give the folder of a classifier"):
        make_plan(config(features={"kind": "classifier", "path": "/nowhere"}))
    assert "23 images" in make_plan(config()).text()
