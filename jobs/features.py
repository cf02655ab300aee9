"""Train the small feature network of `jobs.quality`: a classifier of the data set's own labels.

    python -m jobs.features --config jobs/presets/fashion_mnist_features.yaml

It runs in this process, on the GPU if there is one: minutes at most. What is there already is kept.
"""

import logging
import sys

import torch

from jobs.cli import run
from pipeline.cluster.submitted import check_submitted_paths
from pipeline.config.quality import TrainFeaturesConfig
from pipeline.data.dataset import ShardedDataset, open_dataset
from pipeline.errors import InputError
from pipeline.model.classifier_export import CLASSIFIER_CARD, load_classifier_card, write_classifier
from pipeline.quality.train_classifier import accuracy, card_of, train_classifier
from pipeline.storage import open_storage

log = logging.getLogger(__name__)


def check(config: TrainFeaturesConfig) -> tuple[ShardedDataset, ShardedDataset | None]:
    """Open the data and see that a classifier can learn it; write nothing.

    Raises:
        InputError: no data, no labels, a test split of other images, or an output that is in use or
            cannot be written.
    """
    check_submitted_paths(config, "output")
    output, dataset = (
        open_storage(config.path(config.output)),
        open_dataset(config.path(config.data)),
    )
    if dataset.info.classes is None:
        raise InputError(f"{config.data} has no labels, and a classifier learns them")
    test = open_dataset(config.path(config.test)) if config.test else None
    if test is not None and (test.info.shape, test.info.classes) != (
        dataset.info.shape,
        dataset.info.classes,
    ):
        raise InputError(f"{config.test} has other images or classes than {config.data}")
    if (output / CLASSIFIER_CARD).size() is not None:
        digest = load_classifier_card(output).weights_sha256
        raise InputError(f"{output} holds a classifier already ({digest[:12]}); choose another")
    output.check_writable()
    return dataset, test


def main(config: TrainFeaturesConfig) -> None:
    """Train, measure on the test split, and write the classifier."""
    dataset, test = check(config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = train_classifier(dataset, config, device)
    if test is not None:
        share = accuracy(network, test, config.gamma_0, device)
        log.info("accuracy on %s: %.4f of %d images", config.test, share, test.info.samples)
    weights = {name: value.cpu() for name, value in network.state_dict().items()}
    output = open_storage(config.path(config.output))
    card = write_classifier(output, weights, card_of(dataset, config))
    log.info("classifier %s in %s", card.weights_sha256[:12], output)


def plan_text(config: TrainFeaturesConfig) -> str:
    """The plan in words."""
    info = check(config)[0].info
    return (
        f"plan: a classifier of {info.classes} classes from {info.samples:,} images "
        f"{info.shape}, {config.steps} steps of {config.batch_size}, to {config.output}"
    )


if __name__ == "__main__":
    sys.exit(run(TrainFeaturesConfig, main, plan=plan_text, description=__doc__))
