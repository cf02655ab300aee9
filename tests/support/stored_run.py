"""Checkpoints and snapshots as one rank leaves them, without an engine."""

from collections.abc import Mapping, Sequence
from threading import Event

import torch
from safetensors.torch import save
from torch import Tensor

from pipeline.checkpoint.fragment import AVERAGE, MOMENTS, WEIGHTS, Fragment
from pipeline.checkpoint.rank_file import RankFile
from pipeline.checkpoint.record import SNAPSHOTS, CheckpointRecord, FileRecord, checkpoint_name
from pipeline.checkpoint.share import Share
from pipeline.checkpoint.write import Save, commit, write_part
from pipeline.config.average import AverageConfig
from pipeline.model.export import CARD, ModelCard
from pipeline.storage import Location
from vdm_core import VDM

Weights = dict[str, Tensor]


def wandering(vdm: VDM, steps: int) -> list[Weights]:
    """The weights after each step of a random walk from those of `vdm`, float64."""
    noise = torch.Generator().manual_seed(3)
    path = [{name: p.detach().double() for name, p in vdm.named_parameters()}]
    for _ in range(steps):
        path.append(
            {
                name: value + 0.01 * torch.randn(value.shape, generator=noise, dtype=value.dtype)
                for name, value in path[-1].items()
            }
        )
    return path[1:]


def averaged(path: Sequence[Weights], average: AverageConfig) -> list[Weights]:
    """Its average after each step, by the recursion in float64."""
    found = [path[0]]
    for step, weights in enumerate(path[1:], start=1):
        decay = average.decay_at(step)
        found.append({n: decay * found[-1][n] + (1 - decay) * v for n, v in weights.items()})
    return found


def store_run(
    run: Location,
    vdm: VDM,
    card: ModelCard,
    path: Sequence[Weights],
    ema: Sequence[AverageConfig],
    *,
    every: int,
    ema_every: int,
) -> None:
    """What a run that went along `path` leaves: checkpoints, and snapshots of widths."""
    tracks = {average.name: averaged(path, average) for average in ema}
    buffers = {n: b for n, b in vdm.state_dict().items() if n not in path[0]}
    for step in range(1, len(path) + 1):
        averages = {AVERAGE + name: track[step - 1] for name, track in tracks.items()}
        sealed = card.model_copy(update={"step": step})
        if step % ema_every == 0:
            widths = {kind: w for kind, w in averages.items() if "width" in kind}
            _store(run / SNAPSHOTS / checkpoint_name(step), widths, buffers, sealed)
        if step % every == 0:
            moments = dict.fromkeys(MOMENTS, path[step - 1])
            state = {WEIGHTS: path[step - 1], **moments, **averages}
            _store(run / checkpoint_name(step), state, buffers, sealed)


def _store(
    folder: Location, state: Mapping[str, Weights], buffers: Weights, card: ModelCard
) -> None:
    kinds, weights = tuple(state), next(iter(state.values()))
    layout = [Fragment(name, 0, value.view(-1)) for name, value in weights.items()]
    file = RankFile(
        kinds, layout, {n: v.numel() for n, v in weights.items()}, Share(0, 1), pinned=False
    )
    file.fill([value.view(-1).float() for kind in kinds for value in state[kind].values()])
    target = Save(folder, "life", 1, patience=0)
    write_part(target, 0, file.content(), file.layout)

    def others(files: Mapping[str, FileRecord]) -> dict[str, bytes]:
        return {"buffers.life.safetensors": save(buffers), CARD: card.model_dump_json().encode()}

    head = CheckpointRecord(
        step=card.step,
        next_index=0,
        optimizer_steps=card.step,
        bits_per_dim=1.0,
        world_size=1,
        zero_stage=0,
        config_sha256="",
        files={},
    )
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    commit(target, head, shapes, kinds, others, Event())
