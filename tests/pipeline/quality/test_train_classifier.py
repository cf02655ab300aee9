"""The feature network's training: it learns what can be learned, and comes out the same again."""

import numpy as np
import pytest
import torch

from pipeline.config.quality import TrainFeaturesConfig
from pipeline.data.dataset import open_dataset
from pipeline.errors import InputError
from pipeline.quality.train_classifier import accuracy, card_of, train_classifier

CPU = torch.device("cpu")
SETTINGS = {"network": {"width": 8, "multipliers": (1, 2)}, "steps": 30, "batch_size": 16}


def test_it_learns_where_the_light_is_and_does_so_again(write_set):
    """Two classes that differ in the lit half; accuracy 1, and the same weights twice."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 80, (60, 1, 8, 8), dtype=np.uint8)
    labels = [n % 2 for n in range(60)]
    for image, label in zip(images, labels, strict=True):
        image[0, 4 * label : 4 * label + 4] += 150
    data = write_set("data", images, labels)
    config = TrainFeaturesConfig(data=data, output="o", learning_rate=1e-2, **SETTINGS)
    dataset = open_dataset(data)
    network = train_classifier(dataset, config, CPU)
    assert accuracy(network, dataset, config.gamma_0, CPU) == 1.0
    again = train_classifier(dataset, config, CPU)
    for one, other in zip(network.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    card = card_of(dataset, config)
    assert (card.classes, card.shape, card.network.width) == (2, (1, 8, 8), 8)
    other = card_of(dataset, config.model_copy(update={"gamma_1": 0.0}))
    assert card.schedule_sha256 != other.schedule_sha256


def test_a_set_without_labels_is_refused(write_set):
    data = write_set("data", np.zeros((4, 1, 8, 8), np.uint8))
    with pytest.raises(InputError, match="has no labels"):
        train_classifier(open_dataset(data), TrainFeaturesConfig(data=data, output="o"), CPU)
