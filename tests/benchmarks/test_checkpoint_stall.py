"""How long a checkpoint holds the training up, against writing it on the spot."""

from pathlib import Path
from statistics import median
from time import perf_counter

import pytest
import torch

from pipeline.checkpoint.fragment import Fragment
from pipeline.checkpoint.rank_file import RankFile
from pipeline.checkpoint.share import Share
from pipeline.checkpoint.write import Save, write_part
from pipeline.storage import open_storage

ELEMENTS, TENSORS, REPEATS = 16_000_000, 400, 5
KINDS = ("weights", "exp_avg", "exp_avg_sq", "ema/decay_0.9999")


@pytest.mark.benchmark
def test_checkpoint_stall(tmp_path: Path) -> None:
    """Prints the time of the copy over that of copy, digests and writing, medians."""
    sizes = torch.full((TENSORS,), ELEMENTS // TENSORS).tolist()
    layout = [Fragment(f"p{n}", 0, torch.randn(size)) for n, size in enumerate(sizes)]
    tensors = [f.tensor.clone() for _ in KINDS for f in layout]
    file = RankFile(
        KINDS, layout, {f.name: len(f.tensor) for f in layout}, Share(0, 1), pinned=False
    )
    file.fill(tensors)

    def copy() -> float:
        began = perf_counter()
        file.fill(tensors)
        return perf_counter() - began

    def whole(number: int) -> float:
        began = perf_counter()
        file.fill(tensors)
        save = Save(open_storage(str(tmp_path / f"{number}")), "x", 1, patience=0)
        write_part(save, 0, file.content(), file.layout)
        return perf_counter() - began

    pairs = [(copy(), whole(number)) for number in range(REPEATS)]
    stall, synchronous = (median(times) for times in zip(*pairs, strict=True))
    megabytes = len(file.content()) / 1e6
    print(
        f"\n{megabytes:.0f} MB of state on the CPU: stall {1e3 * stall:.0f} ms, synchronous save "
        f"{1e3 * synchronous:.0f} ms, ratio {stall / synchronous:.3f}"
    )
