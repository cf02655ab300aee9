"""Pack images into sharded, checked sets, or index existing tar shards.

    python -m jobs.prepare --config jobs/presets/fashion_mnist_prepare.yaml

Each split becomes a folder with shards, `manifest.parquet`, `dataset.json` and a picture. Running
it again continues what was interrupted, and verifies and leaves alone what is finished. With
`pool.actors=8` eight processes of a Ray cluster share the work; the result is the same.
"""

from jobs.cli import run
from pipeline.config.prepare import PrepareConfig
from pipeline.data.dataset import ShardedDataset
from pipeline.prepare.splits import plan_prepare, prepare
from pipeline.prepare.tasks import connection


def main(config: PrepareConfig) -> None:
    """Check all input, write what is missing, and say what there is."""
    with connection(config.pool):
        plan = plan_prepare(config)
        print(plan.text())
        for name, dataset in prepare(plan).items():
            print(summary(name, dataset))


def plan_text(config: PrepareConfig) -> str:
    """What would be done, after all checks."""
    with connection(config.pool):
        return plan_prepare(config, keep=False).text()


def summary(name: str, dataset: ShardedDataset) -> str:
    """What a split holds, in words."""
    info = dataset.info
    counts = zip(info.class_names, dataset.label_counts, strict=True)
    size = sum(row.bytes for row in dataset.rows)
    lines = [
        f"{name}: {info.samples:,} images {info.shape} in {len(dataset.rows)} shards "
        f"({size / 2**20:.1f} MiB), {info.encoding}, "
        f"mean {_short(info.mean)} std {_short(info.std)}"
    ]
    if info.classes:
        lines.append("  classes  " + ", ".join(f"{label} {count:,}" for label, count in counts))
    return "\n".join(lines)


def _short(values: tuple[float, ...] | None) -> str:
    return ", ".join(f"{value:.4f}" for value in values or ())


if __name__ == "__main__":
    raise SystemExit(run(PrepareConfig, main, plan=plan_text, description=__doc__))
