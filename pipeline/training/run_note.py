"""What the page of a training run in MLflow tells people: what it is, and where to look."""

from pipeline.training.preflight import Plan

_WHERE_TO_LOOK = """
| question | metrics | artifacts |
|---|---|---|
| Is it learning? | `train/bits_per_dim` and the other `train/` | `figures`, `images` |
| What does it cost? | `train/images_per_second`, `time/`, `goodput/`, `memory/` | |
| What is the schedule doing? | `schedule/` | `figures/schedule`, `schedule` |

`docs/metrics.md` explains each of them.
"""


def run_note(plan: Plan) -> str:
    """Markdown for the run's page: the plan as the driver printed it, then where to look."""
    return f"```text\n{plan.text()}\n```\n{_WHERE_TO_LOOK}"
