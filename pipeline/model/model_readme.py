"""A model's card for people: what it is, which weights these are, and how to load them."""

from pipeline.model.export import ModelCard
from pipeline.model.schedule_record import ScheduleRecord


def model_readme(card: ModelCard, schedule: ScheduleRecord, parameters: int) -> str:
    """Markdown; says only what the records say."""
    channels, height, width = card.shape
    time = "continuous" if card.model.steps is None else f"discrete, T = {card.model.steps}"
    rows = {
        "images": f"{channels} x {height} x {width}, {card.levels} levels",
        "labels": _labels(card),
        "network": f"{card.model.network.kind}, {parameters:,} parameters",
        "prediction": card.model.prediction,
        "time": time,
        "schedule": f"{schedule.kind}, γ(0) = {schedule.gamma_0:.4f}, "
        f"γ(1) = {schedule.gamma_1:.4f} (γ is the negative log-SNR; the curve is in schedule.json)",
        "weights": card.average.text,
        "training": f"run {card.run}, step {card.step:,}",
        "MLflow run": card.mlflow_run_id or "none",
        "data set (SHA-256 of its manifest)": card.dataset_digest,
        "weights (SHA-256)": card.weights_sha256,
        "schedule (SHA-256)": card.schedule_sha256,
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"""# {card.run}, step {card.step:,}

A Variational Diffusion Model (Kingma et al. 2021).

| | |
|---|---|
{table}

`model.safetensors` holds float32 weights, `model.json` how to build the model around them:

```python
from pipeline.model.export import load_model
from pipeline.storage import open_storage

vdm, card = load_model(open_storage("this-folder"))  # refuses weights that were changed
```

`python -m jobs.sample model=this-folder` draws images, `python -m jobs.evaluate model=this-folder`
measures bits per dimension. No figure of quality stands here: they belong to a data set.
"""


def _labels(card: ModelCard) -> str:
    if not card.model.conditional or card.classes is None:
        return "none, the model is unconditional"
    names, dropped = ", ".join(card.class_names), card.model.drop_label
    return f"{card.classes} classes ({names}), left out in {dropped:.0%} of training"
