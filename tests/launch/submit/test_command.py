"""`delta-submit` as a user has it, up to the moment of sending."""

import sys

import pytest

from tests.conftest import TINY, Train
from tests.launch.conftest import in_forks

SLURM = (*TINY, "cluster=slurm", "nodes=2", "cluster.allow_local=true", "rollout.num_workers=2")


@pytest.fixture
def submit(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Train:
    """The command on a machine without Slurm's."""
    monkeypatch.setenv("PATH", str(tmp_path_factory.mktemp("bin")))
    return in_forks(tmp_path_factory.mktemp("said"), "launch.submit.__main__")


def test_a_plan_is_shown_with_its_files_and_nothing_is_written(submit: Train, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # the script is read by bash
    shown = submit(*SLURM, f"run_dir={tmp_path / 'run'}", "--lint", check=True).stdout
    for text in (
        "2 nodes, each with 2 CPUs",
        "controller, learner rank 0, engine 0",
        "learner rank 1, engine 1",
        "120 s for a checkpoint, then back into the queue, up to 20 times",
        f"#SBATCH --output={tmp_path / 'run'}/job/slurm.log",
        f"{sys.executable} -m launch.submit.slurm.node",
        "Memory plan",
        "nothing was submitted",
    ):
        assert text in shown
    assert list(tmp_path.iterdir()) == []


def test_without_slurm_a_dry_run_says_what_it_could_not_ask_and_a_submission_is_refused(
    submit: Train, tmp_path, monkeypatch
):
    (tmp_path / "bash").symlink_to("/bin/bash")
    monkeypatch.setenv("PATH", str(tmp_path))
    run = (*SLURM, f"run_dir={tmp_path / 'run'}")
    assert "the cluster could not be asked: squeue is not found" in submit(*run, "dry_run=true", check=True).stdout
    refused = submit(*run)
    assert refused.returncode == 2
    assert "squeue is not found: expected Slurm's commands on this machine" in refused.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["cluster=slrum"], ["slrum", "slurm"]),
        (["cluster.partitoin=gpu"], ["partitoin", "partition"]),
        (["cluster.time_limit=4h"], ["cluster.time_limit=4h", "4:00:00"]),
        (["cluster.time_limit=2:00"], ["over before the run is told to end, 180 s ahead"]),
        (["cluster.first_port=70000"], ["cluster.first_port=70000"]),
        (["cluster.temp_dir=scratch"], ["cluster.temp_dir=scratch", "absolute"]),
        (["cluster.grace_s=0"], ["cluster.grace_s=0", "more than 0 s"]),
        (["+cluster.environment.HF_TOKEN=x"], ["HF_TOKEN", "by reference"]),
        (["cluster.num_gpus=1"], ["rollout.num_workers=2", "cluster.num_gpus=1"]),
        (["model=pretrained", "model.path=./nowhere"], ["./nowhere is no model"]),
        (["data=jsonl", "data.path=/nowhere/problems.jsonl"], ["/nowhere/problems.jsonl", "No such file"]),
        (["cluster=local", "nodes=2"], ["nodes=2 with cluster=local", "delta-submit"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_settings_are_refused_with_advice(submit: Train, tmp_path, monkeypatch, overrides, expected):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    base = () if overrides[0].startswith("cluster=") else ("cluster=slurm", "cluster.allow_local=true")
    refused = submit(*base, *overrides, f"run_dir={tmp_path / 'run'}", "--lint")
    assert refused.returncode == 2
    for text in expected:
        assert text in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "run").exists()


def test_what_kubernetes_cannot_be_asked_is_said(submit: Train):
    volumes = "cluster.volumes=[{claim: runs, path: /runs}]"
    to = ("cluster=kuberay", "cluster.image=delta", volumes, "cluster.host_memory_gib=9", "run_dir=/runs/first")
    assert "resume=never is not checked" in submit(*TINY, *to, "resume=never", "--lint", check=True).stdout
    assert "resume=never" not in submit(*TINY, *to, "--lint", check=True).stdout


def test_this_machine_is_a_cluster_too(submit: Train, tmp_path):
    (tmp_path / "config.yaml").touch()
    shown = submit(*TINY, f"run_dir={tmp_path / 'run'}", "dry_run=true", check=True).stdout
    assert "Plan of delta-" in shown
    assert "dry run: everything that can be checked" in shown
    refused = submit(*TINY, f"run_dir={tmp_path}", "resume=never")
    assert refused.returncode == 2, "that of delta-train"
    assert "already holds a run" in refused.stderr


def test_help_is_about_submitting(submit: Train):
    for flag in ("--help", "-h"):
        assert submit(flag, check=True).stdout.startswith("delta-submit: send a training run to a cluster.")
