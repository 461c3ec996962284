"""Whether a job would be taken: what delta-submit refuses fails here too, with an API server on the loopback device."""

import pytest

from launch.doctor.check import Status
from launch.doctor.submission import submission
from tests.launch.test_conf import composed

PODS = (
    "cluster=kuberay",
    "cluster.namespace=research",
    "cluster.image=registry.example/team/delta:1.0",
    "cluster.volumes=[{claim: runs, path: /runs}]",
    "run_dir=/runs/first",
    "model=pretrained",
    "model.path=/runs/model",
    "data=jsonl",
    "data.path=/runs/problems.jsonl",
)
"""A run whose folder, model and data are where the pods are."""


@pytest.fixture(autouse=True)
def outside_jobs(monkeypatch):
    for name in ("RAY_ADDRESS", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)


def failure(*overrides: str) -> str:
    found = submission(composed(*overrides))
    assert found.status is Status.failed, found
    return found.seen


def test_only_what_is_submitted_is_looked_at(monkeypatch):
    assert submission(composed()).status is Status.skipped
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert "node of a job" in submission(composed(*PODS)).seen


def test_what_delta_submit_says_of_a_slurm_job_before_it_asks_anybody(tmp_path, monkeypatch):
    run = ("cluster=slurm", "nodes=2", f"run_dir={tmp_path / 'run'}")
    assert "where other nodes do not see it" in failure(*run)
    run = (*run, "cluster.allow_local=true")
    assert "cluster.image=/nowhere.sif is not found" in failure(*run, "cluster.image=/nowhere.sif")
    assert "num_workers" in failure(*run, "cluster.num_gpus=1", "rollout.num_workers=9")
    (tmp_path / "bash").symlink_to("/bin/bash")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "squeue is not found" in failure(*run, "cluster.partition='gpu,cpu'")


def test_a_cluster_that_takes_the_job(server):
    found = submission(composed(*PODS))
    assert found.status is Status.warning
    assert "pods ask for no memory" in found.seen
    assert server.requests[-1] == "POST /apis/ray.io/v1/namespaces/research/rayjobs?dryRun"
    assert not server.stored("rayjobs").keys() - {"another"}
    assert "4 of 8 GPUs have nothing to do" in submission(composed(*PODS, "cluster.num_gpus=8")).seen


def test_clusters_that_do_not_take_it(server, monkeypatch):
    assert "the context elsewhere" in failure(*PODS, "cluster.context=elsewhere")
    assert "no such namespace" in failure(*PODS, "cluster.namespace=nobodys")
    assert "cluster.image is empty" in failure(*PODS, "cluster.image=''")
    assert "run_dir=/tmp/run is on none of cluster.volumes" in failure(*PODS, "run_dir=/tmp/run")
    server.forbidden.append("POST .*/rayjobs")
    assert "Ask for the right to create rayjobs" in failure(*PODS)
    server.objects.clear()
    assert "Have the KubeRay operator installed" in failure(*PODS, "cluster.kind=cluster")
    server.failing["."] = (401, "who is this?")
    assert "who is this?" in failure(*PODS)
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    assert "Expected a kubeconfig" in failure(*PODS)


def test_a_cluster_of_pods_needs_no_right_to_make_jobs(server):
    server.forbidden.append("POST .*/rayjobs")
    assert submission(composed(*PODS, "cluster.kind=cluster")).status is Status.warning
