"""Runs of the whole command in the background, and what tests look at in them."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import TINY
from workers.controller.metrics import JsonLines

TIMEOUT_S = 300
"""Of every wait for a run: several times what it takes alone on a machine, which others may use too."""

STEPS = 7
PROBLEMS = 20
"""An epoch: steps of 8 prompts cross its end in the middle of steps 3 and 5."""

# A model that is right often enough for every step to change the weights.
RUN = (
    *(name for name in TINY if not name.startswith("model.")),
    "model.hidden_size=64",
    "model.steps=600",
    "model.threads=1",
    f"data.problems={PROBLEMS}",
    f"steps={STEPS}",
    "evaluation.every=3",
    "checkpoint.every=1",
    "checkpoint.keep=10",
    "seed=5",
)


def rows(run_dir: Path) -> list[dict]:
    """Whole rows: a full disk, or a look at the wrong moment, may find the last one cut."""
    return JsonLines(run_dir / "metrics.jsonl").rows()


def course(run_dir: Path) -> list[dict[str, float]]:
    """Metrics by step, without what a clock says, or how far the verifier's cache has filled since its start."""
    return [
        {name: value for name, value in row.items() if not name.endswith("_s") and not name.startswith("verifier/")}
        for row in rows(run_dir)
    ]


def measured(run_dir: Path) -> list[dict]:
    return JsonLines(run_dir / "evaluations.jsonl").rows()


def weights_hash(run_dir: Path, step: int) -> str:
    manifest = run_dir / "checkpoints" / f"step-{step:06d}" / "manifest.json"
    return json.loads(manifest.read_text())["weights_hash"]


def marked(run_dir: Path) -> list[int]:
    """Living processes that descend from a run, by the mark in their environment."""
    mark = f"DELTA_TEST_RUN={run_dir}".encode()
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            environment = (process / "environ").read_bytes().split(b"\0")
            state = (process / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if mark in environment and state != "Z":
            found.append(int(process.name))
    return found


def command_line(pid: int) -> str:
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:200]
    except OSError:
        return ""


def processes_of(run_dir: Path) -> list[str]:
    """What is left of a run."""
    return [command_line(pid) for pid in marked(run_dir)]


def wait_until_gone(run_dir: Path) -> None:
    """Ray's processes follow their driver, its agents in their own time."""
    deadline = time.monotonic() + TIMEOUT_S
    while processes_of(run_dir) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes_of(run_dir) == []


def kill_what_is_left(run_dir: Path) -> None:
    """Of a run that a test began, whatever state the test left it in."""
    deadline = time.monotonic() + TIMEOUT_S
    while (left := marked(run_dir)) and time.monotonic() < deadline:  # one may have started another meanwhile
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def engines(run_dir: Path) -> set[int]:
    """Processes of the rollout workers, whatever they are doing."""
    return {pid for pid in marked(run_dir) if command_line(pid).startswith("ray::RolloutWorker")}


def wait_until_replaced(run_dir: Path, old: set[int]) -> None:
    """Until none of the `old` engines lives."""
    deadline = time.monotonic() + TIMEOUT_S
    while left := engines(run_dir) & old:
        assert time.monotonic() < deadline, f"engines {left} live on after {TIMEOUT_S} s"
        time.sleep(0.05)


def wait_for_step(run_dir: Path, step: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        if (run_dir / "metrics.jsonl").exists() and any(row["step"] >= step for row in rows(run_dir)):
            return
        assert process.poll() is None, process.stdout.read()[-3000:]
        time.sleep(0.05)
    raise AssertionError(f"step {step} not reached within {TIMEOUT_S} s")


def catch(run_dir: Path, doing: str, process: subprocess.Popen) -> int:
    """Stop a process of the run in the middle of what it does, by its title: `LearnerWorker.update`."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stdout.read()[-3000:]
        for pid in marked(run_dir):
            if f"ray::{doing}" in command_line(pid):
                os.kill(pid, signal.SIGSTOP)
                if f"ray::{doing}" in command_line(pid):  # it may have ended while we looked
                    return pid
                os.kill(pid, signal.SIGCONT)
        time.sleep(0.002)
    raise AssertionError(f"nobody was caught in {doing} within {TIMEOUT_S} s")


@contextlib.contextmanager
def update_stopped(run_dir: Path, process: subprocess.Popen) -> Iterator[int]:
    """A learner stands still in the middle of an update while the block runs; yields the step that is not finished."""
    learner = catch(run_dir, "LearnerWorker.update", process)
    yield len(rows(run_dir)) + 1
    os.kill(learner, signal.SIGCONT)


def faults(run_dir: Path) -> list[dict]:
    """What the run has put on record so far."""
    return JsonLines(run_dir / "faults.jsonl").rows()


def wait_for_faults(run_dir: Path, count: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while len(faults(run_dir)) < count:
        assert process.poll() is None, process.stdout.read()[-3000:]
        assert time.monotonic() < deadline, f"{faults(run_dir)} within {TIMEOUT_S} s"
        time.sleep(0.05)
