"""A sweep on Kubernetes whose command is given again and again, at an API server over loopback."""

import pytest

from launch.command import EXIT_MEMBERS, EXIT_USER_ERROR
from launch.sweep.rayjobs import rayjob_of
from launch.sweep.runs import find_members
from launch.sweep.state import State
from tests.conftest import Train
from tests.launch.submit.kuberay.conftest import server  # noqa: F401, a fixture
from tests.launch.submit.kuberay.plans import make_config

SWEEP = (
    "--multirun",
    "hydra/launcher=kuberay",
    "run_dir='/runs/${label}-${seed}'",
    "data=jsonl",
    "data.path=/runs/problems.jsonl",  # on a volume of the pods, not here
    "cluster.namespace=research",
    "cluster.image=registry.example/team/delta:1.0",
    "cluster.volumes=[{claim:runs,path:/runs}]",
    "cluster.num_gpus=8",
    "learner.num_ranks=1",
    "rollout.num_workers=1",
)


@pytest.fixture(autouse=True)
def no_slurm(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


@pytest.mark.slow
def test_the_same_command_comes_back_to_the_jobs(server, train: Train, tmp_path):  # noqa: F811
    def sweep(seeds: str):
        return train(*SWEEP, f"seed={seeds}", f"sweep={tmp_path}/sweep", timeout_s=120)

    def states() -> list[State]:
        return [found.status.state for found in find_members(tmp_path / "sweep")]

    def jobs() -> dict[str, dict]:
        return {name: job for name, job in server.stored("rayjobs").items() if name != "another"}

    server.failing["POST .*/secrets"] = (403, "exceeded quota: team")
    said = sweep("1,2")
    assert said.returncode == EXIT_MEMBERS, said.stderr
    assert "exceeded quota: team" in said.stdout
    assert "2 members were refused: seed-1, seed-2" in said.stdout
    assert states() == [State.failed, State.failed]
    assert "not here, so model, data and memory are checked when the run starts: data.path=" in said.stdout
    assert "6 of 8 GPUs have nothing to do" in said.stdout

    server.failing.clear()
    said = sweep("1,2")
    assert (said.returncode, len(jobs())) == (0, 2), said.stderr
    first, second = jobs()
    jobs()[first]["status"] = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
    assert states() == [State.incomplete, State.incomplete]  # delta-report does not ask the cluster

    sent = [request for request in server.requests if request.startswith("POST")]
    said = sweep("1,2")
    assert said.returncode == 0, said.stderr
    assert f"seed-1: job {first} is under way: RayJob {first}, running" in said.stdout
    assert f"seed-2: job {second} is under way: RayJob {second}, new" in said.stdout
    assert [request for request in server.requests if request.startswith("POST")] == sent

    jobs()[second]["status"] = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "message": "exit code 71"}
    said = sweep("1,2,3")
    assert (said.returncode, len(jobs())) == (EXIT_USER_ERROR, 2)
    assert f"kubectl -n research delete rayjob {second}" in said.stderr

    server.objects = {path: found for path, found in server.objects.items() if not path.endswith(second)}
    jobs()[first]["status"] = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
    said = sweep("1,2,3")
    assert said.returncode == 0, said.stderr
    assert "3 members, 1 of them complete" in said.stdout
    assert len(jobs()) == 3


def test_a_job_that_cannot_be_asked_about_is_not_sent_again(server, monkeypatch, tmp_path):  # noqa: F811
    server.put("/apis/ray.io/v1/namespaces/research/rayjobs", "one", spec={})
    assert rayjob_of("one", make_config()).state is State.waiting
    assert rayjob_of("two", make_config()).state is State.preempted
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    known = rayjob_of("one", make_config())
    assert (known.state, "as far as is known: no way to a Kubernetes cluster" in known.detail) == (State.running, True)
