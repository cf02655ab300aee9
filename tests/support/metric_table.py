"""The metrics that docs/metrics.md explains."""

import re
from pathlib import Path

TABLE = Path(__file__).parents[2] / "docs/metrics.md"


def explained() -> list[str]:
    """Names in the first columns of its tables of metrics, `<...>` standing for any one part."""
    names: list[str] = []
    for table in re.findall(r"\| metric \|.*?\n((?:\|.*\n)+)", TABLE.read_text()):
        for row in table.splitlines()[1:]:
            names += re.findall(r"`([^`]+)`", row.split(" | ")[0])
    return names


def fits(name: str, logged: str) -> bool:
    """Whether the explanation `name` is one of the metric `logged`."""
    parts = re.split(r"<[^>]+>", name)
    return re.fullmatch("[^/]+".join(map(re.escape, parts)), logged) is not None
