"""A small classifier, trained on a labelled set: what the features of `jobs.quality` come from.

It is the noise-aware classifier, shown latents of little noise: γ uniform between two ends, which
is a linear schedule in continuous time, and the card names that schedule. Times and noises belong
to the samples, so the same configuration gives the same classifier on the same kind of device.
"""

import math

import torch
import torch.nn.functional as F

from pipeline.config.quality import TrainFeaturesConfig
from pipeline.data.dataset import ShardedDataset
from pipeline.data.stream import TrainingStream, iterate_once
from pipeline.errors import InputError
from pipeline.model.classifier_export import ClassifierCard
from pipeline.model.schedule_record import schedule_digest
from pipeline.progress import Progress
from vdm_core import LinearSchedule
from vdm_core.decoder import encode
from vdm_core.diffusion import diffuse
from vdm_core.networks.classifier import NoiseAwareClassifier
from vdm_core.rng import Purpose, normal, stratified_times

_WARM_UP = 50


def train_classifier(
    dataset: ShardedDataset, config: TrainFeaturesConfig, device: torch.device
) -> NoiseAwareClassifier:
    """Minimise the cross-entropy over `config.steps` batches; bad samples are skipped.

    Raises:
        InputError: the set has no labels, or the network cannot be built.
    """
    network = _network(dataset, config).to(device)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, config.steps))
    stream = TrainingStream(
        dataset,
        seed=config.seed,
        global_batch=config.batch_size,
        rank=0,
        world_size=1,
        micro_batch=config.batch_size,
        lanes=4,
        shuffle_window=1024,
    )
    schedule = LinearSchedule(config.gamma_0, config.gamma_1, learned=False)
    progress = Progress("classifier: trained", config.steps, "steps")
    try:
        for _, batch in zip(range(config.steps), stream, strict=False):
            images = batch.images.to(device)
            assert batch.labels is not None
            labels, indices = batch.labels.to(device), batch.indices.to(device)
            t = stratified_times(config.seed, indices, config.batch_size)
            noise = normal(config.seed, Purpose.NOISE, indices, tuple(images.shape[1:]))
            noised = diffuse(encode(images, dataset.info.levels), schedule(t).gamma, noise)
            losses = F.cross_entropy(network(noised.z, noised.gamma), labels, ignore_index=-1)
            optimizer.zero_grad()
            losses.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            rate.step()
            progress.add()
    finally:
        stream.close()
    return network.eval()


@torch.no_grad()
def accuracy(
    network: NoiseAwareClassifier, dataset: ShardedDataset, gamma: float, device: torch.device
) -> float:
    """Share of the images, without noise, whose label has the largest logit."""
    right = 0
    for batch in iterate_once(dataset, batch_size=500):
        assert batch.labels is not None
        x = encode(batch.images.to(device), dataset.info.levels)
        logits = network(x, torch.full((len(x),), gamma, device=device))
        right += int((logits.argmax(1).cpu() == batch.labels).sum())
    return right / dataset.info.samples


def card_of(dataset: ShardedDataset, config: TrainFeaturesConfig) -> ClassifierCard:
    """What the weights belong to."""
    schedule = LinearSchedule(config.gamma_0, config.gamma_1, learned=False)
    assert dataset.info.classes is not None
    return ClassifierCard(
        network=config.network,
        shape=dataset.info.shape,
        classes=dataset.info.classes,
        class_names=dataset.info.class_names,
        schedule_sha256=schedule_digest("linear", schedule.state_dict(prefix="schedule.")),
    )


def _network(dataset: ShardedDataset, config: TrainFeaturesConfig) -> NoiseAwareClassifier:
    info, network = dataset.info, config.network
    if info.classes is None:
        raise InputError(f"{config.data} has no labels, and a classifier learns them")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        try:
            return NoiseAwareClassifier(
                info.shape[0], info.classes, network.width, network.multipliers, network.blocks
            )
        except ValueError as error:
            raise InputError(f"network: {error}") from None


def _rate(step: int, steps: int) -> float:
    """Linear warm-up, then a half cosine to 0."""
    warm = min(1.0, (step + 1) / min(_WARM_UP, steps))
    return warm * 0.5 * (1.0 + math.cos(math.pi * step / steps))
