"""What of KubeRay's RayCluster and RayJob (ray.io/v1, release 1.6) our manifests may use.

JSON Schema, closed: a field that is not here, or is misspelt, is an error. Pod templates are left
to the schemas of Kubernetes itself.
"""

from typing import Any


def _record(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


STRING, BOOLEAN, OBJECT = {"type": "string"}, {"type": "boolean"}, {"type": "object"}
COUNT = {"type": "integer", "minimum": 0}
START = {"type": "object", "additionalProperties": STRING}  # numbers have to be quoted

_HEAD = _record(("template",), rayStartParams=START, template=OBJECT)
_GROUP = _record(
    ("groupName", "minReplicas", "maxReplicas", "template"),
    groupName=STRING,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    rayStartParams=START,
    template=OBJECT,
)
_CLUSTER = _record(
    ("headGroupSpec", "rayVersion", "authOptions"),
    rayVersion=STRING,
    authOptions=_record(("mode",), mode={"enum": ["token"]}),
    enableInTreeAutoscaling=BOOLEAN,
    autoscalerOptions=_record(
        version={"enum": ["v1", "v2"]}, idleTimeoutSeconds=COUNT, securityContext=OBJECT
    ),
    headGroupSpec=_HEAD,
    workerGroupSpecs={"type": "array", "items": _GROUP},
)
_JOB = _record(
    ("submissionMode", "clusterSelector", "entrypoint"),
    submissionMode={"enum": ["K8sJobMode", "HTTPMode"]},  # SidecarMode needs a cluster of its own
    clusterSelector=_record(("ray.io/cluster",), **{"ray.io/cluster": STRING}),
    entrypoint=STRING,
)
_METADATA = _record(("name", "namespace"), name=STRING, namespace=STRING)


def _kind(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    names = ("apiVersion", "kind", "metadata", "spec")
    fixed = {"apiVersion": {"const": "ray.io/v1"}, "kind": {"const": kind}}
    return _record(names, **fixed, metadata=_METADATA, spec=spec)


SCHEMAS = {"RayCluster": _kind("RayCluster", _CLUSTER), "RayJob": _kind("RayJob", _JOB)}
