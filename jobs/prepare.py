"""Pack images into sharded, checked sets, or index existing tar shards.

    python -m jobs.prepare --config jobs/presets/fashion_mnist_prepare.yaml

Each split becomes a folder with shards, `manifest.parquet`, `dataset.json` and a picture of its
first samples. Running it again verifies what is there and changes nothing.
"""

from jobs.cli import run
from pipeline.config.prepare import PrepareConfig
from pipeline.data.dataset import ShardedDataset
from pipeline.prepare.splits import plan_prepare, prepare


def main(config: PrepareConfig) -> None:
    """Check all input, write what is missing, and say what there is."""
    plan = plan_prepare(config)
    print(plan.text())
    skipped = {split: found.survey.skipped for split, found in plan.inputs.items()}
    for name, dataset in prepare(plan).items():
        print(summary(name, dataset, skipped.get(name, [])))


def summary(name: str, dataset: ShardedDataset, skipped: list[str]) -> str:
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
    if skipped:
        lines.append(f"  unusable {len(skipped)}: " + "; ".join(skipped[:5]))
    return "\n".join(lines)


def _short(values: tuple[float, ...] | None) -> str:
    return ", ".join(f"{value:.4f}" for value in values or ())


if __name__ == "__main__":
    raise SystemExit(
        run(PrepareConfig, main, plan=lambda c: plan_prepare(c).text(), description=__doc__)
    )
