"""What a run's page says of where to look is there."""

import re
from pathlib import Path

from pipeline.training.run_note import _WHERE_TO_LOOK

METRICS = Path(__file__).resolve().parents[3] / "docs/metrics.md"


def test_what_the_page_names_is_in_the_table_of_metrics():
    """Each group, metric and artifact by the name that docs/metrics.md has for it."""
    table = METRICS.read_text(encoding="utf-8")
    named = re.findall(r"`([^`{]+?)…?`", _WHERE_TO_LOOK.partition("`docs")[0])
    assert len(named) == 11
    assert all(f"`{name}" in table for name in named)
