"""One shard of samples: the unit of work of the sampling job.

A sample is a function of the model, its id and the sampler's settings; neither the actor that
drew it, nor the batch it was drawn in, nor a restart has a part in it.
"""

from typing import Any

import torch

from pipeline.config.sample import SampleConfig
from pipeline.data.decode import encode_png
from pipeline.data.writer import ShardSample, write_shard
from pipeline.model.export import load_model
from pipeline.sampling.sample_set import ShardTask, keep_row, wanted_classes
from pipeline.storage import open_storage
from vdm_core import ClassifierFree, sample


class ShardGenerator:
    """A model in memory, turning tasks into shards. Ray Data keeps one in each actor."""

    def __init__(self, config: SampleConfig, model: str) -> None:
        """Load the model from the URL or absolute path `model`."""
        self.config = config
        self.device = torch.device("cuda" if config.pool.gpus_per_actor > 0 else "cpu")
        vdm, self.card = load_model(open_storage(model))
        self.vdm = vdm.to(self.device)
        self.classes = wanted_classes(config, self.card)
        self.guidance = ClassifierFree(config.guidance_scale, config.gamma_interval)
        self.output = open_storage(config.path(config.output))

    def __call__(self, task: dict[str, Any]) -> list[dict[str, Any]]:
        """Draw and write the samples of a `ShardTask`; return its line for the manifest.

        The line is also kept beside the shards, after the shard is whole: it is what tells a
        restarted job that this shard is done.
        """
        shard = ShardTask(**task)
        samples: list[ShardSample] = []
        for start in range(shard.start, shard.stop, self.config.batch_size):
            samples += self._batch(start, min(start + self.config.batch_size, shard.stop))
        row = write_shard(self.output, shard.shard, samples)
        keep_row(self.output, row)
        return [{"shard": row.shard, "samples": row.samples}]

    def _batch(self, start: int, stop: int) -> list[ShardSample]:
        ids = torch.arange(start, stop)
        labels = None
        if self.classes is not None:  # classes take turns, so every shard has all of them
            labels = torch.tensor(self.classes)[ids % len(self.classes)]
        images = sample(
            self.vdm,
            ids.to(self.device),
            None if labels is None else labels.to(self.device),
            shape=self.card.shape,
            steps=self.config.steps,
            sampler=self.config.sampler,
            grid=self.config.grid,
            guidance=None if labels is None else self.guidance,
            clip=self.config.clip,
            seed=self.config.seed,
        ).cpu()
        return [
            ShardSample(
                key=f"{number:09d}",
                image=encode_png(image.numpy()),
                extension="png",
                label=None if labels is None else int(labels[row]),
                extra={
                    "id": number,
                    "seed": self.config.seed,
                    "guidance_scale": self.config.guidance_scale,
                },
            )
            for row, (number, image) in enumerate(zip(ids.tolist(), images, strict=True))
        ]
