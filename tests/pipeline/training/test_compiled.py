"""torch.compile changes how the network is computed, and nothing else."""

from typing import Any

import pytest

from pipeline.errors import InputError
from pipeline.training.compiled import no_compiler

CASES = {
    "float32": "deepspeed={zero_stage: 1, precision: float32",
    "bfloat16": "deepspeed={zero_stage: 2, precision: bfloat16",
}


@pytest.fixture(scope="module")
def runs(launch: Any, configure: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A rank that trains with and without."""
    folder = tmp_path_factory.mktemp("compiled")
    network = "model.network={kind: unet, width: 8, blocks: 1}"
    configs = {
        f"{name}_{how}": configure(folder, f"{given}{how_given}}}", network, "data.micro_batch=4")
        for name, given in CASES.items()
        for how, how_given in {"eager": "", "compiled": ", compile: true"}.items()
    }
    return launch("compiled_ranks", 1, folder, **configs)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "rel"), [("float32", 1e-5), ("bfloat16", 2e-3)])
def test_the_losses_are_those_of_the_eager_network(runs: Any, precision: str, rel: float) -> None:
    """Over steps that move the weights; in bfloat16 as near as its rounding allows."""
    eager, compiled = runs[f"{precision}_eager"], runs[f"{precision}_compiled"]
    assert compiled["losses"] == pytest.approx(eager["losses"], rel=rel)
    assert compiled["norms"] == pytest.approx(eager["norms"], rel=10 * rel)


@pytest.mark.slow
@pytest.mark.parametrize("precision", CASES)
def test_one_graph_compiled_once(runs: Any, precision: str) -> None:
    """The first step compiles the network whole; no later one compiles anything."""
    compiled = runs[f"{precision}_compiled"]
    assert compiled["graphs"] == 1
    assert compiled["later_graphs"] == 0
    assert compiled["breaks"] == {}
    assert runs[f"{precision}_eager"]["graphs"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("precision", CASES)
def test_the_state_keeps_its_names(runs: Any, precision: str) -> None:
    """A checkpoint does not tell whether its network was compiled."""
    eager, compiled = runs[f"{precision}_eager"], runs[f"{precision}_compiled"]
    assert compiled["keys"] == eager["keys"]
    assert compiled["fragments"] == eager["fragments"]


def test_stage_3_is_refused(tiny: Any) -> None:
    """Before anything starts."""
    with pytest.raises(InputError, match="ZeRO stages 0 to 2"):
        tiny("deepspeed={zero_stage: 3, compile: true}")


def test_other_families_are_refused(tiny: Any) -> None:
    """Their networks have not been tried."""
    with pytest.raises(InputError, match=r"model\.kind=vdm, and this is classifier"):
        tiny("deepspeed.compile=true", "model={kind: classifier, of: run, network: {width: 8}}")


def test_a_machine_without_a_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what was looked for and what to do."""
    monkeypatch.setenv("PATH", "")
    problem = no_compiler()
    assert problem is not None
    assert "needs a C++ compiler" in str(problem)
    assert "install one" in str(problem)
    monkeypatch.undo()
    assert no_compiler() is None
