"""One shard of samples: the unit of work of the sampling job.

A sample is a function of the model, its row of the plan and the sampler's settings; neither the
actor that drew it, nor a restart has a part in it, and the batch it was drawn in only by rounding.
"""

import logging
import platform
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

import torch
from torch import Tensor

from pipeline.code_version import code_version
from pipeline.config.sample import SampleConfig
from pipeline.data.writer import ShardSample
from pipeline.errors import InputError
from pipeline.model.draw import Walk, draw_images
from pipeline.model.export import load_model
from pipeline.sampling.encode import encode_images, encode_samples
from pipeline.sampling.guide import load_guide, make_guidance
from pipeline.sampling.memory import out_of_memory
from pipeline.sampling.output_folder import PLAN, ROWS, plan_digest
from pipeline.sampling.plan import ShardTask
from pipeline.sampling.rows import PlannedRows, Rows
from pipeline.sampling.shard_rows import FinishedShard, finished_bytes, sample_rows
from pipeline.storage import Location, open_storage
from vdm_core import VDM
from vdm_core.labels import NO_LABEL
from vdm_core.networks.classifier import NoiseAwareClassifier

_AHEAD = 2  # batches that may wait for their encoding while the next one is drawn
_log = logging.getLogger(__name__)
Encoded = tuple[list[ShardSample], list[str]]


@dataclass(frozen=True)
class Cell:
    """One of the sets of a job, as an actor needs it."""

    config: SampleConfig
    rows: Rows
    plan_sha256: str

    @property
    def output(self) -> Location:
        """The set's folder."""
        return open_storage(self.config.path(self.config.output))


class ShardGenerator:
    """A model in memory, turning tasks into shards. Ray Data keeps one in each actor."""

    def __init__(self, cells: Sequence[Cell], model: str) -> None:
        """Load the model from the URL or absolute path `model`, and the guide of its guidance."""
        self.cells, config = cells, cells[0].config
        self.batch_size = config.batch_size
        self.device = torch.device("cuda" if config.pool.gpus_per_actor > 0 else "cpu")
        torch.backends.cudnn.deterministic = True  # the same bytes from each actor
        loaded, self.card = load_model(open_storage(model), config.ema)
        guide = load_guide(config, self.card)
        self.model = loaded.to(self.device)
        self.guide: VDM | NoiseAwareClassifier | None = None
        if guide is not None:
            self.guide = guide.network.to(self.device)
        if config.compile:
            for network in self.model.networks:
                network.compile()

    def __call__(self, task: dict[str, Any]) -> list[dict[str, Any]]:
        """Draw and write the samples of a `ShardTask`; say which shard is done.

        What tells that it is done is written last, after the shard is whole.

        Raises:
            InputError: out of memory twice, a full disk, or an output that is another job's now.
        """
        shard = ShardTask(**task)
        cell, start = self.cells[shard.cell], time.perf_counter()
        rows = cell.rows.rows(shard.start, shard.stop)
        samples, digests = self._draw_all(cell.config, rows)
        encoded = encode_samples(shard.shard, samples, cell.config)
        _check_still_ours(cell)
        (cell.output / shard.shard).write_bytes(encoded.data)
        seconds = time.perf_counter() - start
        finished = FinishedShard(encoded.row, cell.plan_sha256, self._made_by(), seconds)
        lines = sample_rows(rows, shard.shard, encoded.extents, digests)
        name = f"{PurePosixPath(shard.shard).stem}.parquet"
        (cell.output / ROWS / name).write_bytes(finished_bytes(finished, lines))
        return [asdict(shard)]

    def _draw_all(self, config: SampleConfig, rows: PlannedRows) -> Encoded:
        """Samples and digests of all rows; each batch is encoded while the next one is drawn."""
        encoded: list[Future[Encoded]] = []
        start, total = 0, len(rows.ids)
        with ThreadPoolExecutor(1) as encoder:
            while start < total:
                batch = rows.part(start, start + self.batch_size)
                images = self._draw_within_memory(config, batch)
                if images is None:
                    continue
                encoded.append(encoder.submit(encode_images, batch, images, config))
                if len(encoded) > _AHEAD:
                    encoded[-1 - _AHEAD].result()
                start += len(batch.ids)
            parts = [future.result() for future in encoded]
        return [s for part, _ in parts for s in part], [d for _, part in parts for d in part]

    def _draw_within_memory(self, config: SampleConfig, rows: PlannedRows) -> Tensor | None:
        """The images; None where memory gave out and the batch was halved, which is done once."""
        try:
            return self._draw(config, rows)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if self.batch_size < config.batch_size or self.batch_size == 1:
                halved = self.batch_size < config.batch_size
                raise InputError(
                    f"out of memory at batch_size={config.batch_size}"
                    f"{f', and again at {self.batch_size},' if halved else ''} on "
                    f"{self._device_name()}: {_first_line(error)}; "
                    "lower batch_size or give each actor more memory"
                ) from error
            self.batch_size = -(-self.batch_size // 2)
            _log.warning(
                "out of memory at batch_size=%d on %s: this actor goes on with %d (%s)",
                config.batch_size, self._device_name(), self.batch_size, _first_line(error),
            )  # fmt: skip
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _draw(self, config: SampleConfig, rows: PlannedRows) -> Tensor:
        """Images (N,C,H,W) uint8, on the device."""
        ids, labels, seeds, scales = (torch.tensor(c, device=self.device) for c in rows)
        scale = float(rows.scales[0])
        same = bool((rows.scales == scale).all())  # the cheaper form, and the usual one
        labelled = bool((rows.labels != NO_LABEL).any())
        walk = Walk(
            steps=config.steps,
            sampler=config.sampler,
            grid=config.grid,
            guidance=make_guidance(config, scale if same else scales, self.guide),
            clip=config.clip,
        )
        return draw_images(
            self.model,
            ids,
            labels if labelled else None,
            shape=self.card.shape,
            seed=seeds,
            walk=walk,
        )

    def _made_by(self) -> str:
        return f"code {code_version()}, torch {torch.__version__}, {self._device_name()}"

    def _device_name(self) -> str:
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"CPU {platform.machine()}"


def _check_still_ours(cell: Cell) -> None:
    """Refuse to write among the samples of another request, which took the folder meanwhile."""
    try:
        same = plan_digest(cell.output) == cell.plan_sha256
    except FileNotFoundError:
        same = False
    if not same:
        raise InputError(
            f"{cell.output / PLAN} changed while this job ran: another job has taken the folder; "
            "run again with an output of its own"
        )


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
