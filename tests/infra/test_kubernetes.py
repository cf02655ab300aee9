"""The manifests of infra/kubernetes: valid, locked, consistent, their commands understood."""

import copy
import re
import shlex
from pathlib import Path
from string import Template

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml
from job_commands import load_command
from kuberay_schema import SCHEMAS
from ray.scripts.scripts import drain_node

from pipeline.config.train import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "infra/kubernetes"
KUBERNETES = "1.34"
DOCUMENTS = [
    pytest.param(document, id=f"{path.stem}-{document['kind']}-{document['metadata']['name']}")
    for path in sorted(FOLDER.glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
]
ALL = [parameter.values[0] for parameter in DOCUMENTS]
JOBS = [document for document in ALL if document["kind"] == "RayJob"]


def find(kind, name):
    """The one document of a kind and name."""
    (found,) = [d for d in ALL if (d["kind"], d["metadata"]["name"]) == (kind, name)]
    return found


def groups():
    """The head's and the workers' group specifications."""
    spec = find("RayCluster", "vdm")["spec"]
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def pods():
    """Every pod specification, with its owner's name."""
    deployed = [d for d in ALL if d["kind"] in ("Deployment", "StatefulSet")]
    named = [(d["metadata"]["name"], d["spec"]["template"]["spec"]) for d in deployed]
    return named + [(g.get("groupName", "head"), g["template"]["spec"]) for g in groups()]


def check(document):
    """Raise if a document is not of its kind's schema."""
    schema = SCHEMAS.get(document["kind"])
    if schema is None:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
        return
    jsonschema.validate(document, schema)
    if document["kind"] == "RayCluster":
        spec = document["spec"]
        for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
            template = {"apiVersion": "v1", "kind": "PodTemplate", "template": group["template"]}
            kubernetes_validate.validate(template, KUBERNETES, strict=True)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_manifest_is_of_its_schema(document):
    """Every field is one that the API knows, with a value that it takes."""
    check(document)
    namespace = document["metadata"].get("namespace", document["metadata"]["name"])
    assert namespace == "vdm"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d["spec"].update(rayversion="2.60.0"),
        lambda d: d["spec"]["authOptions"].update(mode="disabled"),
        lambda d: d["spec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
        lambda d: d["spec"]["workerGroupSpecs"][0]["template"]["spec"].update(toleration=[]),
    ],
)
def test_the_schemas_refuse_what_is_wrong(spoil):
    """A misspelt field, authentication off, an unquoted number, a misspelt pod field."""
    document = copy.deepcopy(find("RayCluster", "vdm"))
    spoil(document)
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check(document)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job["metadata"]["name"])
def test_a_jobs_command_is_understood_by_the_job(job):
    """Presets exist, overrides fit, and every path is one that all nodes see."""
    settings = find("ConfigMap", "vdm")["data"]
    command = Template(job["spec"]["entrypoint"]).substitute(settings)
    name, config = load_command(command, {"/opt/vdm": ROOT})
    assert job["metadata"]["name"] == f"vdm-{name}"
    written = config.storage_path if isinstance(config, TrainConfig) else config.output
    assert written.startswith(settings["VDM_BUCKET"])
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": "vdm"}


def test_the_work_fits_on_the_cluster():
    """Some group's node holds a worker of each job, and the groups grow to all of them."""
    settings = find("ConfigMap", "vdm")["data"]
    nodes = [(_resources(g), g["maxReplicas"]) for g in groups()[1:]]
    for job in JOBS:
        command = Template(job["spec"]["entrypoint"]).substitute(settings)
        _, config = load_command(command, {"/opt/vdm": ROOT})
        if isinstance(config, TrainConfig):
            cluster, count = config.cluster, config.cluster.worker_counts[0]
            each = {"cpu": cluster.cpus_per_worker, "gpu": cluster.gpus_per_worker}
            assert cluster.wait_seconds > 0
        else:
            pool, count = config.pool, config.pool.min_actors or config.pool.actors
            each = {"cpu": pool.cpus_per_actor, "gpu": pool.gpus_per_actor}
            assert pool.wait_seconds > 0
        places = sum(
            most * min(int(node[kind] // need) for kind, need in each.items() if need)
            for node, most in nodes
        )
        assert places >= count, job["metadata"]["name"]


def _resources(group):
    wanted = group["template"]["spec"]["containers"][0]["resources"]["requests"]
    return {"cpu": float(wanted["cpu"]), "gpu": float(wanted.get("nvidia.com/gpu", 0))}


def test_a_stopped_run_has_the_time_to_save():
    """`ray job stop` waits longer than the run's grace period; a spot pod longer than its drain."""
    (train,) = [job for job in JOBS if job["metadata"]["name"] == "vdm-train"]
    command = Template(train["spec"]["entrypoint"]).substitute(find("ConfigMap", "vdm")["data"])
    _, config = load_command(command, {"/opt/vdm": ROOT})
    environment = groups()[0]["template"]["spec"]["containers"][0]["env"]
    (patience,) = [e["value"] for e in environment if e["name"] == "RAY_JOB_STOP_WAIT_TIME_S"]
    assert float(patience) >= config.cluster.grace_seconds + 10
    spot = next(g for g in groups() if g.get("groupName") == "gpu-spot")["template"]["spec"]
    hook = spot["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    drain, _, sleep = hook[2].partition(" && ")
    words = shlex.split(drain)
    assert words[:2] == ["ray", "drain-node"]
    options = drain_node.make_context("drain-node", words[2:]).params  # Ray's own parser
    assert options["deadline_remaining_seconds"] == int(sleep.removeprefix("sleep "))
    assert spot["terminationGracePeriodSeconds"] > options["deadline_remaining_seconds"]


def test_every_pod_is_locked():
    """No root, no new rights, no capabilities; secrets by reference; no port of the host."""
    for name, pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), name
        assert name == "head" or pod["automountServiceAccountToken"] is False, name
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert not any("hostPort" in port for port in container.get("ports", []))
            for variable in container.get("env", []):
                secret = re.search("PASSWORD|SECRET|TOKEN|KEY", variable["name"])
                assert not secret or "secretKeyRef" in variable["valueFrom"], variable


def test_nothing_is_public():
    """Services are inside the cluster; every pod is under the policy that lets nothing in."""
    kinds = {document["kind"] for document in ALL}
    assert not kinds & {"Ingress", "Secret"}
    assert all(
        d["spec"].get("type", "ClusterIP") == "ClusterIP" for d in ALL if d["kind"] == "Service"
    )
    closed = find("NetworkPolicy", "nothing-comes-in")["spec"]
    assert closed == {"podSelector": {}, "policyTypes": ["Ingress"]}


def test_images_are_ours_or_exact():
    """No `latest`; one version of our image everywhere, and Ray's version is the one installed."""
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.M).group(1)
    for _, pod in pods():
        image = pod["containers"][0]["image"]
        assert re.search(r":\d+\.\d+", image), image
        if "registry.example/" in image:
            assert image.rpartition(":")[2].split("-")[0] == version
    assert find("RayCluster", "vdm")["spec"]["rayVersion"] == ray.__version__


def test_workers_have_shared_memory():
    """Ray's object store and NCCL need more than the 64 MiB that a container gets."""
    for group in groups():
        pod = group["template"]["spec"]
        mounts = {m["mountPath"]: m["name"] for m in pod["containers"][0]["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
