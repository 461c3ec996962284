"""Submitted runs as tests see them: what is sent, where its processes are, and a moment in which they stand still."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.conftest import ROOT
from tests.integration.runs import RUN, command_line, rows
from tests.slurm.cluster import OVER, TIMEOUT_S, SlurmCluster, wait_until

TWO_NODES = (
    *RUN,
    "cluster=slurm",
    "nodes=2",
    "rollout.num_workers=2",  # what they sample does not depend on how many there are
    "cluster.num_cpus=2",
    "cluster.host_memory_gib=12",
    "cluster.allow_local=true",  # the folders of tests are below /tmp, and these all nodes share
    "cluster.time_limit=60",
    "cluster.grace_s=60",
    "cluster.lost_after_s=15",
    "checkpoint.every=2",
)
"""The run of `uninterrupted`, with a learner rank and an engine on each node."""

UPDATE = "ray::LearnerWorker.update"
"""Title of a learner in an update."""


def delta_submit(slurm: SlurmCluster, *overrides: str) -> subprocess.CompletedProcess[str]:
    """The command, as on the login node of the cluster."""
    return subprocess.run(
        [sys.executable, "-m", "launch.submit", *overrides],
        cwd=ROOT,
        env=slurm.environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


class Run:
    """A submitted run."""

    def __init__(self, slurm: SlurmCluster, run_dir: Path, *overrides: str) -> None:
        """Send it."""
        self.slurm, self.run_dir = slurm, run_dir
        cache = f"+cluster.environment.DELTA_CACHE={os.environ['DELTA_CACHE']}"
        said = delta_submit(slurm, *TWO_NODES, cache, *overrides, f"run_dir={run_dir}")
        assert said.returncode == 0, said.stdout + said.stderr
        self.job_id = re.search(r"job (\d+)", said.stdout)[1]

    def wait_for(self, *states: str) -> dict[str, str]:
        """Wait until Slurm says that the job is in one of the states."""
        return self.slurm.wait_for(self.job_id, *states)

    def wait_for_step(self, step: int) -> None:
        """Wait until so many steps are on record."""
        self.wait_until(lambda: any(row["step"] >= step for row in self.rows()), f"step {step}")

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for something that only happens while the job is not over."""

        def happened() -> bool:
            state = self.slurm.job(self.job_id)["JobState"]
            if condition():
                return True
            assert state not in OVER, f"job {self.job_id} is {state} before {what}; its log:\n{self.log()}"
            return False

        wait_until(happened, lambda: f"no {what}; the log of job {self.job_id}:\n{self.log()}")

    def wait_until_told(self) -> None:
        """Wait until the run knows that this start of the job is to end."""
        starts = int(self.slurm.job(self.job_id)["Restarts"]) + 1
        self.wait_until(lambda: self.log().count("the run is told to end") == starts, "word of the end")

    def come_to_its_time_limit(self) -> None:
        """Leave the job less time than it is told ahead of its limit, which Slurm looks at every half minute."""
        hours, minutes, _ = self.slurm.job(self.job_id)["RunTime"].split(":")
        limit = 60 * int(hours) + int(minutes) + 2
        self.slurm.run("scontrol", "update", f"jobid={self.job_id}", f"TimeLimit={limit}")

    def start_again(self) -> None:
        """Start the requeued job now, with time enough."""
        self.slurm.start_now(self.job_id, "TimeLimit=60")

    def rows(self) -> list[dict]:
        """Its metrics so far."""
        return rows(self.run_dir) if (self.run_dir / "metrics.jsonl").exists() else []

    def log(self) -> str:
        """Its output, of all starts."""
        return self.slurm.log(self.job_id)

    def actors(self, node: str, kind: str) -> list[int]:
        """Processes of this run on a node whose title begins with `kind`, such as `LearnerWorker`."""
        found, mark = [], f"SLURM_JOB_ID={self.job_id}\0".encode()
        for pid, title in self.slurm.hosts[node].processes().items():
            with contextlib.suppress(OSError):
                if title.startswith(f"ray::{kind}") and mark in (Path("/proc") / str(pid) / "environ").read_bytes():
                    found.append(pid)
        return found

    @contextlib.contextmanager
    def held(self, node: str) -> Iterator[None]:
        """A learner stands still in the middle of an update while the block runs, and everybody waits for it."""
        learner = self._stop_in_update(node)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(learner, signal.SIGCONT)

    def _stop_in_update(self, node: str) -> int:
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            self.wait_until(lambda: bool(self.actors(node, "LearnerWorker")), f"learner on {node}")
            for learner in self.actors(node, "LearnerWorker"):
                look_again = time.monotonic() + 1  # for others, which takes much longer than a look at this one
                while time.monotonic() < look_again:
                    if UPDATE in command_line(learner):
                        os.kill(learner, signal.SIGSTOP)
                        if UPDATE in command_line(learner):
                            return learner
                        os.kill(learner, signal.SIGCONT)  # the update ended while we looked
                    time.sleep(0.002)
        raise AssertionError(f"no update on {node}; the log of job {self.job_id}:\n{self.log()}")
