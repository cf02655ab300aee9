"""The cluster file for `ray up`: Ray's own schema, closed doors."""

import copy
import json
import shlex
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml
from ray.scripts.scripts import start

FILE = Path(__file__).resolve().parents[2] / "infra/ray_up_aws.yaml"
CLUSTER = yaml.safe_load(FILE.read_text(encoding="utf-8"))
SCHEMA = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())


def options(command: str) -> dict:
    """What `ray start` makes of a start command, and the environment before it."""
    words = shlex.split(command)
    at = words.index("ray")
    assert words[at : at + 2] == ["ray", "start"]
    environment = dict(word.split("=", 1) for word in words[:at])
    return start.make_context("start", words[at + 2 :]).params | environment


def test_it_is_of_rays_schema():
    """Ray would take it; one wrong key and Ray would not."""
    jsonschema.validate(CLUSTER, SCHEMA)
    spoilt = copy.deepcopy(CLUSTER) | {"head_node": {}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(spoilt, SCHEMA)
    assert CLUSTER["head_node_type"] in CLUSTER["available_node_types"]


def test_every_node_wants_the_token_and_nothing_is_public():
    """Authentication on every node, loopback dashboard, private addresses, encrypted disks."""
    head, worker = (
        options(CLUSTER[f"{kind}_start_ray_commands"][-1].replace("$RAY_HEAD_IP", "10.0.0.1"))
        for kind in ("head", "worker")
    )
    assert head["RAY_AUTH_MODE"] == worker["RAY_AUTH_MODE"] == "token"
    assert head["head"] is True
    assert head["dashboard_host"] == "127.0.0.1"
    assert worker["address"] == "10.0.0.1:6379"
    assert CLUSTER["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}
    assert CLUSTER["provider"]["use_internal_ips"] is True
    for node in CLUSTER["available_node_types"].values():
        config = node["node_config"]
        assert config["MetadataOptions"]["HttpTokens"] == "required"
        assert all(disk["Ebs"]["Encrypted"] for disk in config["BlockDeviceMappings"])
    assert not any("KEY" in text for text in json.dumps(CLUSTER).upper().split('"'))
