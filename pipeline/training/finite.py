"""A step that is not finite: noticed on the device, named with its examples, never saved.

`Engine` leaves out an update whose gradient is not finite; nobody hears of it. Here each step of
a logging interval is remembered, at no cost to the device, until the end of the interval, where
the host waits for the device anyway.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vdm_core.records import Batch
from vdm_core.rng import stratified_times

_NONE = torch.iinfo(torch.int64).max  # no step of this rank was bad


class NonFiniteStepError(FloatingPointError):
    """The loss or the gradient of step `step` was not finite; raised on every rank at once.

    `report` says which examples the step had, at which times, and their terms in nats; it is
    ready for JSON: a value that is no number is the text "nan", "inf" or "-inf".
    """

    def __init__(self, message: str, step: int, report: dict[str, Any]) -> None:
        super().__init__(message)
        self.step, self.report = step, report


@dataclass(frozen=True)
class _Step:
    """A step's examples without their pixels, and what came of them (still on the device)."""

    step: int
    batches: tuple[tuple[tuple[str, ...], Tensor, Tensor], ...]  # keys, indices, valid
    terms: Sequence[Mapping[str, Tensor]]
    gradient_is_finite: Tensor


class FiniteWatch:
    """This rank's steps since the last `check`."""

    def __init__(self, seed: int, global_batch: int) -> None:
        self._seed, self._global_batch = seed, global_batch
        self._steps: list[_Step] = []

    def add(
        self,
        step: int,
        batches: Sequence[Batch],
        terms: Sequence[Mapping[str, Tensor]],
        gradient_is_finite: Tensor,
    ) -> None:
        """Remember a step; `terms` are (B,) in nats for each of its micro-batches."""
        examples = tuple((batch.keys, batch.indices, batch.valid) for batch in batches)
        self._steps.append(_Step(step, examples, terms, gradient_is_finite))

    def check(self, device: torch.device) -> None:
        """Forget the steps, all of which were finite on all ranks. Collective; waits for `device`.

        Raises:
            NonFiniteStepError: one was not; the earliest is named.
        """
        flags = [_is_finite(step) for step in self._steps]
        finite = torch.stack(flags).tolist() if flags else []
        bad = [past for past, good in zip(self._steps, finite, strict=True) if not good]
        first = torch.tensor(bad[0].step if bad else _NONE, device=device)
        dist.all_reduce(first, op=dist.ReduceOp.MIN)
        number = int(first)
        if number != _NONE:
            self._stop(next(past for past in self._steps if past.step == number))
        self._steps.clear()

    def _stop(self, step: _Step) -> None:
        mine = [
            example
            for (keys, indices, valid), terms in zip(step.batches, step.terms, strict=True)
            for example in self._examples(keys, indices, valid, terms)
        ]
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, (bool(step.gradient_is_finite), mine))
        report = {
            "step": step.step,
            "gradient_is_finite": all(finite for finite, _ in everyone),
            "examples": [
                {"rank": rank} | example
                for rank, (_, own) in enumerate(everyone)
                for example in own
            ],
        }
        raise NonFiniteStepError(_message(report), step.step, report)

    def _examples(
        self, keys: tuple[str, ...], indices: Tensor, valid: Tensor, terms: Mapping[str, Tensor]
    ) -> list[dict[str, Any]]:
        times = stratified_times(self._seed, indices, self._global_batch)
        columns = {name: value.tolist() for name, value in terms.items()}
        return [
            {
                "key": key,
                "index": int(indices[row]),
                "time": float(times[row]),
                "valid": bool(valid[row]),
            }
            | {name: _jsonable(values[row]) for name, values in columns.items()}
            for row, key in enumerate(keys)
        ]


def _is_finite(step: _Step) -> Tensor:
    """Whether the loss over the valid examples and the gradient are finite: () bool."""
    losses = [
        torch.where(valid.to(total.device), total, 0.0).isfinite().all()
        for (_, _, valid), terms in zip(step.batches, step.terms, strict=True)
        for total in [torch.stack([*terms.values()]).sum(0)]
    ]
    return torch.stack([*losses, step.gradient_is_finite]).all()


def _message(report: Mapping[str, Any]) -> str:
    examples = [example for example in report["examples"] if example["valid"]]
    names = [n for n in examples[0] if n not in ("rank", "key", "index", "time", "valid")]
    means = {n: sum(float(e[n]) for e in examples) / len(examples) for n in names}
    bad = [e for e in examples if not math.isfinite(sum(float(e[n]) for n in names))]
    what = (
        f"the loss of {len(bad)} of {len(examples)} examples is not finite (first: "
        f"{bad[0]['key']}, index {bad[0]['index']}, t = {bad[0]['time']:.4f})"
        if bad
        else "the gradient is not finite, though the loss is"
    )
    terms = ", ".join(f"{name} {value:.6g}" for name, value in means.items())
    return (
        f"step {report['step']}: {what}; mean terms in nats: {terms}. The update was not applied "
        "and nothing after it is saved; the newest checkpoint is from before. Train on under "
        "another name with a lower optimizer.learning_rate or optimizer.gradient_clipping"
    )


def _jsonable(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
