"""Nothing that comes from a file or an address is executed: the source itself is read."""

import ast
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.storage import open_storage

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    path for room in ("vdm_core", "pipeline", "jobs") for path in (ROOT / room).rglob("*.py")
]
UNSAFE_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
STARTS_PROCESSES = {"pipeline/cluster/local_head.py", "jobs/demo.py"}


def dotted(node: ast.expr) -> str:
    """The name of what is called: `torch.load`, `np.load`, `eval`."""
    return (
        f"{dotted(node.value)}.{node.attr}"
        if isinstance(node, ast.Attribute)
        else (node.id if isinstance(node, ast.Name) else "")
    )


def unsafe(source: str) -> list[str]:
    """Imports and calls that could run what a file holds."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [name for name in names if name.split(".")[0] in UNSAFE_MODULES]
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        settings = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
        if name.endswith("torch.load") and settings.get("weights_only") is not True:
            found.append("torch.load without weights_only=True")
        if name in ("eval", "exec", "os.system", "os.popen", "yaml.unsafe_load", "yaml.full_load"):
            found.append(name)
        if settings.get("allow_pickle") or settings.get("shell"):
            found.append(f"{name} with allow_pickle or shell")
    return found


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from cloudpickle import loads",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f, allow_pickle=True)",
        "subprocess.run(c, shell=True)",
        "eval(x)",
    ],
)
def test_the_look_finds_what_is_unsafe(line):
    """Otherwise the next test could not fail."""
    assert len(unsafe(line)) == 1


def test_no_source_loads_code():
    """Weights are safetensors or `weights_only=True`; no pickle, shell or eval in any room."""
    found = {str(path): unsafe(path.read_text(encoding="utf-8")) for path in SOURCES}
    assert {path: names for path, names in found.items() if names} == {}


def test_only_the_local_head_starts_processes():
    """Commands are never made from data: the two files that run any run Ray's own."""
    users = {
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        if "subprocess" in path.read_text(encoding="utf-8")
    }
    assert users == STARTS_PROCESSES


@pytest.mark.parametrize("url", ["pipe:touch owned", "http://host/set", "ftp://host/set", "hf://x"])
def test_other_addresses_than_folders_and_buckets_are_refused(url, tmp_path, monkeypatch):
    """`pipe:` is a shell command to WebDataset; here it is a folder that does not exist."""
    monkeypatch.chdir(tmp_path)
    if "://" in url:
        with pytest.raises(InputError):
            open_storage(url)
    else:
        assert list(open_storage(url).files()) == []
    assert not (tmp_path / "owned").exists()
