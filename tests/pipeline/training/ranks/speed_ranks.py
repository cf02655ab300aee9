"""A benchmark's trial, as its workers run it."""

from pathlib import Path

import common
import torch.distributed as dist

from pipeline.benchmark.measure import Bench, run_trial
from pipeline.data.mixture import open_mixture
from pipeline.storage import open_storage
from pipeline.training.worker import TrainJob, run_card, training_stream

config = common.start()["config"].trial(dist.get_world_size())
mixture = open_mixture(config.train_paths, config.data)
bench = Bench(config, run_card(config, mixture.info, "none"), common.CPU)
job = TrainJob(config, config.train_paths, "", "", "", "", 0.0)
folder = open_storage(f"{common.FOLDER}/checkpoints")
trial = run_trial(bench, lambda: training_stream(job, mixture, 0), folder)
found = {"trial": trial, "state_bytes": bench.state_bytes}
if dist.get_rank() == 0:
    newest = folder / max(folder.folders())
    parts = [name for name in newest.files() if name.startswith("rank-")]
    found["files_bytes"] = sum(
        Path(newest.path, name).stat().st_size for name in parts if name.endswith(".safetensors")
    )
common.finish(found)
