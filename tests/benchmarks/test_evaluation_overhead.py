"""What evaluation costs beyond the network calls it makes, on the CPU.

    OMP_NUM_THREADS=1 python -m pytest tests/benchmarks/test_evaluation_overhead.py -m benchmark -s

An actor's whole work is measured: shards read and decoded, noise drawn, the bound put together, its
table made. Beside it stand the same number of calls of the same network with the same batch.
"""

from pathlib import Path
from statistics import median
from time import process_time

import pytest
import torch

from pipeline.cluster.kept_ranges import Range
from pipeline.config.evaluate import EvaluateConfig
from pipeline.config.model import ModelConfig
from pipeline.config.prepare import PrepareConfig
from pipeline.evaluation.evaluate import LikelihoodEvaluator
from pipeline.model.build import build_vdm
from pipeline.model.export import ModelCard, export_bytes
from pipeline.prepare.splits import plan_prepare, prepare
from pipeline.storage import open_storage
from vdm_core.networks.cost import parameter_count

FASHION = Path(__file__).parents[2] / "data" / "fashion_mnist"
BATCH, IMAGES, REPEATS = 50, 50, 3
NETWORK = {"kind": "downsampling_unet", "width": 40, "multipliers": (1, 2), "blocks": 2}


@pytest.fixture(scope="module")
def evaluators(tmp_path_factory):
    """make(bounds, draws): an evaluator of packed Fashion-MNIST test images."""
    folder = tmp_path_factory.mktemp("evaluation")
    files = {"images": "t10k-images-idx3-ubyte.gz", "labels": "t10k-labels-idx1-ubyte.gz"}
    split = {name: str(FASHION / file) for name, file in files.items()}
    split |= {"kind": "idx", "limit": IMAGES}
    asked = {"output": str(folder / "data"), "splits": {"test": split}}
    prepare(plan_prepare(PrepareConfig.model_validate(asked)))
    config = ModelConfig.model_validate({"network": NETWORK})
    vdm = build_vdm(config, (1, 28, 28), 10, seed=0, levels=256)
    card = ModelCard(
        model=config, shape=(1, 28, 28), levels=256, classes=10, class_names=(), step=1,
        run="benchmark", mlflow_run_id=None, dataset_digest="",
    )  # fmt: skip
    for name, data in export_bytes(vdm.state_dict(), card).items():
        (open_storage(str(folder / "model")) / name).write_bytes(data)

    def make(draws: int, bounds: dict) -> LikelihoodEvaluator:
        config = EvaluateConfig(
            model=str(folder / "model"), data=str(folder / "data" / "test"), batch_size=BATCH,
            draws=draws, bounds=bounds,
        )  # fmt: skip
        return LikelihoodEvaluator(config, str(folder / "model"))

    return make


@pytest.mark.benchmark
@pytest.mark.parametrize(
    ("draws", "bounds", "calls"),
    [
        (2, {}, 2),
        (1, {"compute": ["discrete"], "steps": 4}, 5),
        (1, {"compute": ["continuous"], "continuous_draws": 4}, 5),
        (1, {"compute": ["importance"], "steps": 2, "importance_draws": 2}, 5),
        (1, {"compute": ["profile"], "profile_points": 5}, 6),
    ],
)
def test_evaluation_overhead(evaluators, draws, bounds, calls):
    """Prints the time of the bare network calls over that of the evaluation, alternating."""
    evaluator = evaluators(draws, bounds)
    network = evaluator.model.network
    z, gamma, labels = torch.randn(BATCH, 1, 28, 28), torch.zeros(BATCH), torch.arange(BATCH) % 10

    @torch.no_grad()
    def bare() -> None:
        for _ in range(calls * IMAGES // BATCH):
            network(z, gamma, labels)

    def whole() -> None:
        evaluator(Range(0, IMAGES))

    def seconds(work) -> float:
        start = process_time()
        work()
        return process_time() - start

    bare(), whole()
    pairs = [(seconds(bare), seconds(whole)) for _ in range(REPEATS)]
    bare_s, whole_s = (median(times) for times in zip(*pairs, strict=True))
    print(
        f"\n{bounds.get('compute', ['bound'])[0]}: {parameter_count(network):,} parameters, "
        f"batch {BATCH}, {calls} calls an image: bare {bare_s:.3f} s, evaluation {whole_s:.3f} s, "
        f"bare / evaluation {median(a / b for a, b in pairs):.3f}"
    )
