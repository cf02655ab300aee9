"""What the page of a training run in MLflow tells people: what it is, and where to look."""

from pipeline.training.preflight import Plan

# MLflow shows four lines before "Show more", and widens the page for long words.
_WHERE_TO_LOOK = """\
- **Is it learning?** Metrics `train/bits_per_dim` and `train/…`; artifacts `figures`, `images`.
- **What does it cost?** Metrics `train/images_per_second`, `time/…`, `goodput/…`, `memory/…`.
- **What is the schedule doing?** Metrics `schedule/…`; artifacts `figures/schedule`, `schedule`.

`docs/metrics.md` explains each of them. Checkpoints: `{run}`.
"""


def run_note(plan: Plan) -> str:
    """Markdown for the run's page: one line on what is trained, then where to look."""
    config, data = plan.config, plan.data
    return (
        f"{config.model.kind}, {plan.parameters:,} parameters, on {data.samples:,} images "
        f"{data.shape}, {config.data.batch_size} a step.\n\n" + _WHERE_TO_LOOK.format(run=plan.run)
    )
