"""Checks that need no cluster, and ask none."""

from dataclasses import replace
from pathlib import Path

import pytest

from delta.errors import ConfigError
from launch.submit.kuberay.backend import KubeRayBackend
from launch.submit.kuberay.config import Kind, VolumeConfig
from tests.launch.submit.kuberay.plans import CRDS, make_config, make_plan


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))


def lint(plan=None, **settings):
    backend = KubeRayBackend(make_config(**settings))
    plan = plan or make_plan()
    return list(backend.lint(plan, backend.render(plan)))


def test_lint_needs_no_cluster_and_says_what_it_could_not_see(nowhere):
    (warning,) = lint()
    assert "cluster.crds=FOLDER" in warning


@pytest.mark.skipif(not CRDS.is_dir(), reason="the folder with KubeRay's definitions is not here")
@pytest.mark.parametrize("kind", Kind)
def test_lint_against_definitions_in_a_folder(nowhere, kind):
    assert lint(make_plan(nodes=2), crds=str(CRDS), kind=kind) == []


def test_pods_without_a_size_are_mentioned(nowhere):
    plan = make_plan(resources=replace(make_plan().resources, memory_mib=0))
    assert "pods ask for no memory" in lint(plan)[0]


def test_lint_reads_what_was_rendered(nowhere):
    backend = KubeRayBackend(make_config())
    (text,) = backend.render(make_plan()).values()
    with pytest.raises(ConfigError, match=r"RayJob first-run would be refused:\n  spec.backoffLimit=-3"):
        backend.lint(make_plan(), {"rayjob.yaml": text.replace("backoffLimit: 20", "backoffLimit: -3")})


@pytest.mark.parametrize(
    ("plan", "settings", "expected"),
    [
        ({"image": ""}, {}, "cluster.image is empty"),
        ({"image": "My Image"}, {}, "cluster.image='My Image' is no name of an image"),
        ({"run_dir": Path("/home/me/runs/x")}, {}, r"run_dir=/home/me/runs/x is on none of cluster.volumes \(/runs\)"),
        ({}, {"volumes": []}, r"on none of cluster.volumes \(none\)"),
        ({}, {"volumes": [VolumeConfig(claim="runs", path="/runs", read_only=True)]}, "which is mounted read_only"),
        ({"inputs": (Path("/home/me/model"),)}, {}, "/home/me/model is read by the run, but is on none"),
        ({}, {"shm_mib": 100}, "cluster.shm_mib=100 is less than cluster.object_store_mib=16384"),
        ({}, {"shm_mib": 131072}, "holds /dev/shm of 131072 MiB and nothing else"),
    ],
)
def test_what_cannot_work_anywhere(nowhere, plan, settings, expected):
    with pytest.raises(ConfigError, match=expected):
        lint(make_plan(**plan), **settings)


def test_what_the_image_has_need_not_be_on_a_volume(nowhere):
    plan = make_plan(inputs=(Path("/opt/models/small"), Path("/runs/data.jsonl")))
    assert len(lint(plan, image_paths=["/opt/models"])) == 1
