"""A cluster with everything that the job of the tests names."""

import copy
from collections.abc import Iterator

import pytest

from tests.launch.submit.kuberay.api_server import DEFINITIONS, ApiServer, serving

OPEN = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
SPECS = {
    "rayjobs": {
        "entrypoint": {"type": "string"},
        "submissionMode": {"type": "string"},
        "backoffLimit": {"type": "integer"},
        "shutdownAfterJobFinishes": {"type": "boolean"},
        "ttlSecondsAfterFinished": {"type": "integer"},
        "rayClusterSpec": OPEN,
    },
    "rayclusters": {
        "rayVersion": {"type": "string"},
        "enableInTreeAutoscaling": {"type": "boolean"},
        **dict.fromkeys(("authOptions", "headGroupSpec"), OPEN),
        "workerGroupSpecs": {"type": "array", "items": OPEN},
    },
}
"""A definition of the tests' own, of the fields that they send."""


def definition(spec: dict) -> dict:
    fields = {
        **{name: {"type": "string"} for name in ("apiVersion", "kind")},
        "metadata": {"type": "object"},
        "spec": {"type": "object", "properties": spec},
    }
    schema = {"openAPIV3Schema": {"type": "object", "properties": fields}}
    return copy.deepcopy({"versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}]})


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[ApiServer]:
    with serving() as server:
        server.put("/api/v1/namespaces", "research")
        core = "/api/v1/namespaces/research"
        server.put(
            f"{core}/persistentvolumeclaims",
            "runs",
            spec={"accessModes": ["ReadWriteMany"]},
            status={"phase": "Bound"},
        )
        server.put(f"{core}/secrets", "wandb", data={"api-key": "aHVudGVyMg=="})
        server.put(f"{core}/secrets", "hugging-face", data={"token": "aHVudGVyMg=="})
        for number in range(2):
            size = {"cpu": "128", "memory": "1Ti", "nvidia.com/gpu": "8"}
            server.put("/api/v1/nodes", f"node{number}", status={"allocatable": size})
        for plural, spec in SPECS.items():
            server.put(DEFINITIONS, f"{plural}.ray.io", spec=definition(spec))
        # An operator that was used before, so that the group is among the APIs.
        server.put("/apis/ray.io/v1/namespaces/elsewhere/rayjobs", "another", spec={})
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path)))
        yield server
