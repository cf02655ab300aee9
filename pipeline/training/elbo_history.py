"""The ELBO's terms over a run's whole life, restarts included."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class ElboHistory:
    """Bits/dim of each term at each reported step; a step computed again counts as it was last."""

    def __init__(self, terms: Sequence[str], records: Iterable[Mapping[str, Any]]) -> None:
        """Begin with the reports in a journal's records."""
        self._terms = tuple(terms)
        self._found: dict[int, list[float]] = {}
        for record in records:
            if "values" in record:
                self.add(record["step"], record["values"])

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add a report that has all of the terms, as `train/<term>`; others are left out."""
        names = [f"train/{term}" for term in self._terms]
        if all(name in values for name in names):
            self._found[step] = [values[name] for name in names]

    def curves(self) -> tuple[list[int], dict[str, list[float]]]:
        """Rising steps and, for each term, a value for each of them."""
        steps = sorted(self._found)
        columns = {t: [self._found[s][i] for s in steps] for i, t in enumerate(self._terms)}
        return steps, columns
