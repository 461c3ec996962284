"""Runs of the whole command in the background, and what tests look at in them."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

from tests.conftest import ROOT, TINY, command
from workers.controller.metrics import JsonLines

STEPS = 7
PROBLEMS = 20
"""An epoch: steps of 8 prompts cross its end in the middle of steps 3 and 5."""

# A model that is right often enough for every step to change the weights.
RUN = (
    *(name for name in TINY if not name.startswith(("model.", "rollout.num_workers="))),
    "model.hidden_size=64",
    "model.steps=600",
    "rollout.num_workers=2",
    f"data.problems={PROBLEMS}",
    f"steps={STEPS}",
    "evaluation.every=3",
    "checkpoint.every=1",
    "checkpoint.keep=10",
    "seed=5",
)

DETERMINISTIC = (
    "reward/mean",
    "rollout/tokens",
    "policy/entropy",
    "loss/surrogate",
    "learner/grad_norm",
    "credit/lambda_std",
)


def rows(run_dir: Path) -> list[dict]:
    """Whole rows: a full disk, or a look at the wrong moment, may find the last one cut."""
    return JsonLines(run_dir / "metrics.jsonl").rows()


def course(run_dir: Path) -> list[list[float]]:
    """What must be the same in two runs of the same configuration."""
    return [[row["step"], *(row[name] for name in DETERMINISTIC)] for row in rows(run_dir)]


def weights_hash(run_dir: Path, step: int) -> str:
    manifest = run_dir / "checkpoints" / f"step-{step:06d}" / "manifest.json"
    return json.loads(manifest.read_text())["weights_hash"]


def marked(run_dir: Path) -> list[int]:
    """Living processes that descend from a run started with `start`, by the mark in their environment."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            environment = (process / "environ").read_bytes()
            state = (process / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if f"DELTA_TEST_RUN={run_dir}".encode() in environment and state != "Z":
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


def start(run_dir: Path, *overrides: str) -> subprocess.Popen:
    """The command in the background, its descendants marked by an environment variable."""
    return subprocess.Popen(
        command([*overrides, f"run_dir={run_dir}"]),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "DELTA_TEST_RUN": str(run_dir)},
        start_new_session=True,
    )


def wait_for_step(run_dir: Path, step: int, process: subprocess.Popen, timeout_s: float = 240) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if (run_dir / "metrics.jsonl").exists() and any(row["step"] >= step for row in rows(run_dir)):
            return
        assert process.poll() is None, process.stdout.read()[-3000:]
        time.sleep(0.05)
    raise AssertionError(f"step {step} not reached within {timeout_s} s")


def catch(run_dir: Path, doing: str, process: subprocess.Popen, timeout_s: float = 120) -> int:
    """Stop a process of the run in the middle of what it does, by its title: `LearnerWorker.update`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stdout.read()[-3000:]
        for pid in marked(run_dir):
            if f"ray::{doing}" in command_line(pid):
                os.kill(pid, signal.SIGSTOP)
                if f"ray::{doing}" in command_line(pid):  # it may have ended while we looked
                    return pid
                os.kill(pid, signal.SIGCONT)
        time.sleep(0.002)
    raise AssertionError(f"nobody was caught in {doing} within {timeout_s} s")


def faults(run_dir: Path) -> list[dict]:
    """What the run has put on record so far."""
    return JsonLines(run_dir / "faults.jsonl").rows()


def wait_for_faults(run_dir: Path, count: int, process: subprocess.Popen, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while len(faults(run_dir)) < count:
        assert process.poll() is None, process.stdout.read()[-3000:]
        assert time.monotonic() < deadline, f"{faults(run_dir)} within {timeout_s} s"
        time.sleep(0.05)
