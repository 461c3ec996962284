"""The closed schema, on a small definition and, where they are here, on KubeRay's own."""

from functools import cache
from typing import Any

import pytest
import yaml

from delta.errors import ConfigError
from launch.submit.kuberay.schema import closed_schema, problems, read_definition
from tests.launch.submit.kuberay.plans import CRDS, job_manifest

kuberays = pytest.mark.skipif(not CRDS.is_dir(), reason="the folder with KubeRay's definitions is not here")


def definition(spec: dict[str, Any], *, served: bool = True) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"metadata": {"type": "object"}, "spec": {"type": "object", **spec}}}
    return {
        "metadata": {"name": "rayjobs.ray.io"},
        "spec": {"versions": [{"name": "v1", "served": served, "schema": {"openAPIV3Schema": schema}}]},
    }


def found(spec: dict[str, Any], value: dict[str, Any]) -> list[str]:
    return list(problems({"metadata": {"name": "x"}, "spec": value}, closed_schema(definition(spec))))


def test_what_is_not_described_is_refused_with_the_nearest_name():
    spec = {"properties": {"replicas": {"type": "integer"}}}
    assert found(spec, {"replicas": 1}) == []
    assert found(spec, {"replica": 1}) == ["spec: there is no field replica here; did you mean replicas?"]


def test_objects_that_hold_anything_stay_open():
    assert found({"properties": {"a": {"type": "object"}}}, {"a": {"b": 1}}) == []
    assert found({"properties": {}, "x-kubernetes-preserve-unknown-fields": True}, {"b": 1}) == []
    labels = {"properties": {"a": {"type": "object", "additionalProperties": {"type": "string"}}}}
    assert found(labels, {"a": {"b": "c"}}) == []
    assert found(labels, {"a": {"b": 1}}) == ["spec.a.b: 1 is an integer; expected string"]


def test_objects_in_lists_and_in_maps_are_closed_too():
    inner = {"type": "object", "properties": {"a": {"type": "integer"}}}
    spec = {
        "properties": {"l": {"type": "array", "items": inner}, "m": {"type": "object", "additionalProperties": inner}}
    }
    assert found(spec, {"l": [{"a": 1}, {"b": 1}], "m": {"k": {"b": 1}}}) == [
        "spec.l[1]: there is no field b here",
        "spec.m.k: there is no field b here",
    ]


def test_whole_numbers_or_text_and_null_where_it_is_allowed():
    either = {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]}
    spec = {"properties": {"port": either, "note": {"type": "string", "nullable": True}}}
    assert found(spec, {"port": 80, "note": None}) == []
    assert found(spec, {"port": "http", "note": "x"}) == []
    assert len(found(spec, {"port": 1.5, "note": 5})) == 2


def test_a_version_that_is_not_served_is_none():
    with pytest.raises(ConfigError, match=r"rayjobs.ray.io serves versions v1; expected ray.io/v1"):
        closed_schema(definition({}, served=False))
    with pytest.raises(ConfigError, match="serves versions none"):
        closed_schema({})


def test_a_folder_without_the_definition(tmp_path):
    with pytest.raises(ConfigError, match=r"ray.io_rayjobs.yaml cannot be read .*Expected the folder helm-chart"):
        read_definition(tmp_path, "RayJob")
    (tmp_path / "ray.io_rayjobs.yaml").write_text("{")
    with pytest.raises(ConfigError, match="is not YAML"):
        read_definition(tmp_path, "RayJob")
    (tmp_path / "ray.io_rayjobs.yaml").write_text(yaml.safe_dump(definition({})))
    assert read_definition(tmp_path, "RayJob") == definition({})


@cache
def own(kind: str) -> dict[str, Any]:
    return closed_schema(read_definition(CRDS, kind))


@kuberays
@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda spec, workers: workers.update(replica=3), "workerGroupSpecs[0]: there is no field replica"),
        (lambda spec, workers: workers.update(replicas="two"), "replicas: 'two' is a string; expected integer"),
        (lambda spec, workers: workers["template"]["spec"].pop("containers"), "containers is missing"),
        (lambda spec, workers: workers["rayStartParams"].update({"num-cpus": 8}), "num-cpus: 8 is an integer"),
        (
            lambda spec, workers: workers["template"]["spec"]["containers"][0]["resources"]["limits"].update(
                cpu="4 cores"
            ),
            "'4 cores' is not a quantity",
        ),
        (lambda spec, workers: spec.update(backofLimit=1), "no field backofLimit here; did you mean backoffLimit?"),
        (
            lambda spec, workers: spec["rayClusterSpec"]["authOptions"].update(mode="on"),
            "'on'; expected one of disabled",
        ),
        (lambda spec, workers: spec.update(preRunningDeadlineSeconds=0), "preRunningDeadlineSeconds: 0 is less than"),
        (lambda spec, workers: workers["template"]["spec"].update(nodeSelectors={}), "did you mean nodeSelector?"),
    ],
)
def test_kuberays_own_schema_finds_the_mistake(spoil, expected):
    manifest = job_manifest()
    assert list(problems(manifest, own("RayJob"))) == []
    spoil(manifest["spec"], manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"][0])
    (problem,) = problems(manifest, own("RayJob"))
    assert expected in problem
    assert problem.startswith("spec")
