"""A model's card for people: what it is, which weights these are, and how to load them."""

from pipeline.config.family import GenerativeConfig
from pipeline.config.ladder import HierarchicalVAEConfig, LatentVDMConfig, VAEConfig
from pipeline.config.model import ModelConfig
from pipeline.model.export import ModelCard
from pipeline.model.schedule_record import ScheduleRecord


def model_readme(card: ModelCard, schedule: ScheduleRecord | None, parameters: int) -> str:
    """Markdown; says only what the records say."""
    channels, height, width = card.shape
    rows = {
        "images": f"{channels} x {height} x {width}, {card.levels} levels",
        "labels": _labels(card),
        **_inside(card.model, parameters),
        **({} if schedule is None else _schedule(schedule)),
        "weights": card.average.text,
        "training": f"run {card.run}, step {card.step:,}",
        "MLflow run": card.mlflow_run_id or "none",
        "data set (SHA-256 of its manifest)": card.dataset_digest,
        "weights (SHA-256)": card.weights_sha256,
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"""# {card.run}, step {card.step:,}

{_what(card.model)}

| | |
|---|---|
{table}

`model.safetensors` holds float32 weights, `model.json` how to build the model around them:

```python
from pipeline.model.export import load_model
from pipeline.storage import open_storage

model, card = load_model(open_storage("this-folder"))  # refuses weights that were changed
```

`python -m jobs.sample model=this-folder` draws images, `python -m jobs.evaluate model=this-folder`
measures bits per dimension. No figure of quality stands here: they belong to a data set.
"""


def _what(model: GenerativeConfig) -> str:
    match model:
        case ModelConfig():
            return "A Variational Diffusion Model (Kingma et al. 2021)."
        case VAEConfig():
            return "A variational autoencoder (Kingma and Welling 2014)."
        case HierarchicalVAEConfig():
            kind = "Markovian hierarchical" if model.markovian else "hierarchical"
            return f"A {kind} variational autoencoder."
        case LatentVDMConfig():
            return "A Variational Diffusion Model of the latents of a variational autoencoder."


def _inside(model: GenerativeConfig, parameters: int) -> dict[str, str]:
    """The rows that say what the model is made of."""
    match model:
        case ModelConfig() | LatentVDMConfig():
            time = "continuous" if model.steps is None else f"discrete, T = {model.steps}"
            return {
                "network": f"{model.network.kind}, {parameters:,} parameters",
                "prediction": model.prediction,
                "time": time,
            }
        case VAEConfig() | HierarchicalVAEConfig():
            depth = model.depth if isinstance(model, HierarchicalVAEConfig) else 1
            return {
                "latents": f"{depth}, {model.latent_channels} channels each",
                "network": f"widths {list(model.widths)}, {parameters:,} parameters",
            }


def _schedule(schedule: ScheduleRecord) -> dict[str, str]:
    return {
        "schedule": f"{schedule.kind}, γ(0) = {schedule.gamma_0:.4f}, "
        f"γ(1) = {schedule.gamma_1:.4f} (γ is the negative log-SNR; the curve is in schedule.json)",
        "schedule (SHA-256)": schedule.schedule_sha256,
    }


def _labels(card: ModelCard) -> str:
    if not card.model.conditional or card.classes is None:
        return "none, the model is unconditional"
    names, dropped = ", ".join(card.class_names), card.model.drop_label
    return f"{card.classes} classes ({names}), left out in {dropped:.0%} of training"
