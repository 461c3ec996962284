"""One attempt of a run, with the commands that pods are given: real processes, signals and files."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from launch.submit.kuberay.attempt import LOG, wait_for_others
from launch.submit.kuberay.manifest import build
from tests.conftest import ROOT
from tests.launch.submit.kuberay.plans import make_config, make_plan

DRIVER = """
import pathlib, signal, sys, time
folder, seconds = pathlib.Path(sys.argv[1]), float(sys.argv[2])
signals = []
signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))
print("step 1", flush=True)
print("a warning", file=sys.stderr, flush=True)
(folder / "started").touch()
while not signals:
    time.sleep(0.05)
time.sleep(seconds)  # the checkpoint
(folder / "checkpoint").write_text(str(len(signals)))
sys.exit(75)
"""
"""Ends as a run does: with a checkpoint, after the first SIGTERM; how many it got is in the file."""


class Pods:
    """The head and other pods of one cluster: the same folder, the same name of the cluster."""

    def __init__(self, folder: Path) -> None:
        plan = make_plan(nodes=2, run_dir=folder)
        self.job_dir = plan.job_dir
        self.environment = {**os.environ, "RAY_CLUSTER_NAME": "first-run-abcde", "PYTHONPATH": str(ROOT)}
        self.environment.pop("RAY_JOB_CONFIG_JSON_ENV_VAR", None)
        spec = build(replace(plan, run_dir=folder), make_config())["spec"]["rayClusterSpec"]
        (worker,) = spec["workerGroupSpecs"][0]["template"]["spec"]["containers"]
        self.pre_stop: list[str] = worker["lifecycle"]["preStop"]["exec"]["command"]

    def start(self, *command: str) -> "subprocess.Popen[str]":
        """The entrypoint on the head."""
        return subprocess.Popen(
            [sys.executable, "-m", "launch.submit.kuberay.attempt", str(self.job_dir), "--", *command],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def stop_pod(self) -> "subprocess.Popen[bytes]":
        """What Kubernetes runs in a pod before it ends it."""
        return subprocess.Popen(self.pre_stop, env=self.environment)

    def mark(self, cluster: str = "first-run-abcde") -> Path:
        return self.job_dir / f"running-{cluster}"


@pytest.fixture
def pods(tmp_path):
    return Pods(tmp_path)


def wait_for(path: Path, *, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.05)


def driver(folder: Path, seconds: float = 0.0) -> list[str]:
    return [sys.executable, "-c", DRIVER, str(folder), str(seconds)]


@pytest.mark.parametrize("code", [0, 2, 71, 75])
def test_the_exit_code_is_the_drivers(pods, code):
    head = pods.start("sh", "-c", f"exit {code}")
    said, _ = head.communicate(timeout=60)
    assert head.returncode == code
    assert ("starting it again would end in the same way" in said) is (code in (2, 71))
    assert not list(pods.job_dir.glob("running-*"))


def test_a_driver_that_was_killed_is_worth_another_attempt(pods):
    head = pods.start("sh", "-c", "kill -9 $$")
    said, _ = head.communicate(timeout=60)
    assert head.returncode == 128 + signal.SIGKILL
    assert "would end in the same way" not in said


def test_a_command_that_is_not_there(pods):
    head = pods.start("delta-trian")
    said, _ = head.communicate(timeout=60)
    assert head.returncode == 2
    assert "error: delta-trian cannot be started" in said


def test_the_output_of_all_attempts_is_on_the_volume(pods):
    for word in ("one", "two"):
        head = pods.start("sh", "-c", f"echo attempt {word}; echo trouble {word} >&2")
        said, _ = head.communicate(timeout=60)
        assert said == f"attempt {word}\ntrouble {word}\n"
    assert (pods.job_dir / LOG).read_text() == "attempt one\ntrouble one\nattempt two\ntrouble two\n"


def test_a_pod_that_is_to_go_waits_for_the_checkpoint(pods, tmp_path):
    """The manifest's own preStop command, on any pod; two of them at once are one request."""
    head = pods.start(*driver(tmp_path, 1.5))
    wait_for(tmp_path / "started")
    leaving = [pods.stop_pod(), pods.stop_pod()]
    for pod in leaving:
        assert pod.wait(60) == 0
    assert (tmp_path / "checkpoint").read_text() == "1"
    said, _ = head.communicate(timeout=60)
    assert head.returncode == 75
    assert "a pod is to go" in said
    assert not list(pods.job_dir.glob("running-*"))


def test_pods_of_a_finished_run_leave_at_once(pods):
    pods.start("true").communicate(timeout=60)
    assert pods.stop_pod().wait(10) == 0
    assert not list(pods.job_dir.glob("end-*"))


def test_when_ray_stops_the_job_the_driver_hears_of_it_once(pods, tmp_path):
    """`kubectl delete`: Ray signals every process of the job, and then the pods are ended too."""
    head = pods.start(*driver(tmp_path, 3.0))
    wait_for(tmp_path / "started")
    os.killpg(head.pid, signal.SIGTERM)
    assert pods.stop_pod().wait(60) == 0
    assert (tmp_path / "checkpoint").read_text() == "1"
    head.communicate(timeout=60)
    assert head.returncode == 75


def test_a_wish_of_pods_before_is_not_for_this_attempt(pods, tmp_path):
    pods.job_dir.mkdir(parents=True)
    (pods.job_dir / "end-first-run-abcde").touch()
    head = pods.start("sh", "-c", "sleep 2; exit 3")
    head.communicate(timeout=60)
    assert head.returncode == 3


def test_new_pods_wait_until_the_old_ones_have_their_checkpoint(pods):
    pods.job_dir.mkdir(parents=True)
    old = pods.mark("first-run-older")
    old.write_text("1")
    head = pods.start("echo", "started")
    assert head.stdout is not None
    assert "waiting for the attempt before this one (running-first-run-older)" in head.stdout.readline()
    assert not pods.mark().exists()
    old.unlink()
    assert head.stdout.readline() == "started\n"
    head.communicate(timeout=60)
    assert head.returncode == 0


def test_old_pods_that_are_silent_are_not_waited_for_any_longer(tmp_path):
    """Silent is one whose mark does not change; as long as it does, it is waited for."""
    other, own, ended = tmp_path / "running-old", tmp_path / "running-new", threading.Event()
    other.write_text("0")
    own.write_text("0")

    def renew() -> None:
        for beat in range(8):
            other.write_text(f"{beat + 1}")
            time.sleep(0.25)
        ended.set()

    thread = threading.Thread(target=renew)
    thread.start()
    wait_for_others(tmp_path, own, quiet_s=1.0, poll_s=0.05)
    assert ended.is_set()
    assert own.exists()
    assert not other.exists()
    thread.join()
