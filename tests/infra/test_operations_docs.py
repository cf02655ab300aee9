"""docs/operations: every command is understood by its program, every alarm is one of ours."""

import itertools
import re
import shlex
import warnings

import click
import pytest
import yaml
from job_commands import load_command
from operations_pages import ORDER, PAGES, ROOT, blocks
from ray.scripts.scripts import cli as ray_cli

COMMANDS = [(page, line) for page in ORDER for block in blocks(page) for line in block.commands]
MANIFESTS = [
    document
    for path in (ROOT / "infra/kubernetes").glob("*.yaml")
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
]
OBJECTS = {f"{document['kind'].lower()}/{document['metadata']['name']}" for document in MANIFESTS}
MADE_BY_KUBERAY = {"service/vdm-head-svc", "secret/vdm"}


def program(name: str) -> click.Group:
    """The command line of Ray or of MLflow, whose import warns of its own type hints."""
    if name == "ray":
        return ray_cli
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.cli import cli
    return cli


def parse(command: click.Command, words: list[str]) -> None:
    """Let a click program take a command line, and run nothing. Raises what click raises."""
    while isinstance(command, click.Group):
        assert words[1] in command.commands, f"{words[0]} has no command {words[1]}"
        command, words = command.commands[words[1]], words[1:]
    command.make_context(words[0], words[1:])


def secrets() -> set[str]:
    """The Secrets that the manifests refer to."""
    return set(
        re.findall(
            r"(?:secretName|secretRef: {name|secretKeyRef: {name): ([\w-]+)",
            "".join(
                path.read_text(encoding="utf-8")
                for path in (ROOT / "infra/kubernetes").glob("*.yaml")
            ),
        )
    )


def check_kubectl(words: list[str]) -> None:
    """Files exist; objects are those of the manifests; secrets have names that they refer to."""
    for option, value in itertools.pairwise(words):
        if option == "-f":
            assert (ROOT / value).is_file(), value
    words = words[words.index("vdm") + 1 :] if "-n" in words[:1] else words
    verb, *words = words if words[0] != "rollout" else words[1:]
    known = {"apply", "replace", "create", "get", "delete", "exec", "port-forward", "status"}
    assert verb in known, verb
    if verb == "create":
        assert words[:2] == ["secret", "generic"]
        assert words[2] in secrets()
    elif verb == "delete" or (verb == "get" and words[0] in ("secret", "rayjob")):
        assert f"{words[0]}/{words[1]}" in OBJECTS | MADE_BY_KUBERAY
    elif verb in ("exec", "port-forward", "status"):
        assert words[0] in OBJECTS | MADE_BY_KUBERAY


def check(line: str) -> None:
    """Raise unless a line is a command that its program takes."""
    for inner in re.findall(r"\$\((.*?)\)", line):
        check(inner.partition("|")[0])
    line = re.sub(r"\$\(.*?\)", "value", line).partition(" > ")[0]
    words = shlex.split(line)
    if words[0] == "export":
        assert all("=" in word for word in words[1:])
    elif words[0] == "kubectl":
        check_kubectl(words[1:])
    elif words[:2] == ["python", "-m"]:
        load_command(line, {"jobs/": f"{ROOT}/jobs/"})
    elif words[:3] == ["ray", "job", "submit"]:
        parse(ray_cli, words)
        at = words.index("--")
        load_command(shlex.join(words[at + 1 :]), {"jobs/": f"{ROOT}/jobs/"})
    elif words[0] in ("ray", "mlflow"):
        parse(program(words[0]), words)
        assert all((ROOT / word).is_file() for word in words if word.endswith(".yaml"))
    elif words[:2] == ["docker", "build"]:
        assert (ROOT / words[words.index("-f") + 1]).is_file()
        stages = re.findall(r"AS (\w+)", (ROOT / "infra/Dockerfile").read_text())
        assert "--target" not in words or words[words.index("--target") + 1] in stages
    elif words[:2] == ["docker", "push"]:
        assert words[2] in {line.split()[5] for _, line in COMMANDS if "docker build" in line}
    else:
        assert words[0] in ("chmod", "cp"), f"no check for {words[0]}"


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{p}: {c[:50]}" for p, c in COMMANDS])
def test_a_command_is_understood(page, line):
    """By the job, by Ray's, MLflow's own parser, or against our manifests."""
    check(line)


@pytest.mark.parametrize(
    "line",
    [
        "python -m jobs.train --config jobs/presets/fashion_mnist_cpu.yaml cluster.worker=4",
        "ray job stopp JOB",
        "ray job logs --folow JOB",
        "ray up infra/ray_up_gcp.yaml",
        "kubectl apply -f infra/kubernetes/job-tain.yaml",
        "kubectl -n vdm delete rayjob vdm-tain",
        "kubectl -n vdm create secret generic vdm-mlflow --from-file=password",
        "kubectl -n vdm rollout status deployment/mlfow",
        "docker build -f Dockerfile .",
        "docker push registry.example/vdm-pipline:0.1.0-cpu",
        "helm install",
    ],
)
def test_what_is_wrong_is_noticed(line):
    """Otherwise the test before could not fail."""
    with pytest.raises((AssertionError, ValueError, click.ClickException)):
        check(line)


def test_every_secret_that_is_needed_is_made():
    """Following the page leaves no pod waiting; the access keys alone are optional."""
    made = set(re.findall(r"create secret generic ([\w-]+)", PAGES["starting"]))
    assert made == secrets() - {"vdm-s3"}


def test_alarms_are_lines_of_ours():
    """What stands between the gaps of an alarm stands in one of our messages."""
    sources = "".join(
        path.read_text(encoding="utf-8")
        for room in ("pipeline", "jobs")
        for path in (ROOT / room).rglob("*.py")
    )
    joined = re.sub(r'"\s*\n\s*f?"', "", sources)  # strings that are broken over lines
    alarms = re.findall(r"^> (.*)", PAGES["alarms"], flags=re.MULTILINE)
    assert len(alarms) > 8
    for alarm in alarms:
        for part in (part.strip() for part in alarm.split("…")):
            assert part in joined, alarm


def test_metrics_and_settings_exist():
    """Each metric that a page names is explained in docs/metrics.md; each link leads somewhere."""
    explained = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    for page, text in PAGES.items():
        metrics = r"`((?:train|time|time_slowest_rank|memory|goodput)/\w+)`"
        for metric in re.findall(metrics, text):
            phase = metric.replace("time_slowest_rank/", "time/")
            assert f"`{phase}`" in explained, (page, metric)
        for link in re.findall(r"\]\(([\w./-]+)\)", text):
            assert (ROOT / "docs/operations" / link).is_file(), (page, link)
