"""A sweep of four jobs on a real Slurm: one is preempted, one fails, and the command is given three times."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from launch.command import EXIT_INTERRUPTED, EXIT_MEMBERS
from launch.sweep.record import What
from launch.sweep.runs import find_members
from launch.sweep.state import State
from tests.conftest import ROOT, TINY
from tests.slurm.cluster import CPUS, TIMEOUT_S, SlurmCluster, wait_until
from tests.slurm.jobs import Run
from workers.controller.metrics import JsonLines

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

STEPS = 12
"""More than a run does in the second that the word of its end may take: Slurm lets go of whom a test holds."""

SWEEP = (
    "--multirun",
    "credit=uniform,discriminative",
    "seed=1,2",
    "hydra/launcher=slurm",
    "hydra.launcher.at_once=2",
    "hydra.launcher.poll_s=1",
    *TINY,
    "learner.num_ranks=1",
    f"steps={STEPS}",
    "checkpoint.every=1",
    f"cluster.num_cpus={CPUS}",  # a node for each
    "cluster.host_memory_gib=12",
    "cluster.allow_local=true",  # the folders of tests are below /tmp, and these all nodes share
    "cluster.time_limit=60",
    "cluster.grace_s=60",
)
"""Two jobs at a time, each on a node of its own."""


class Member(Run):
    """A member whose job the launcher sent."""

    def __init__(self, slurm: SlurmCluster, run_dir: Path, job_id: str) -> None:
        self.slurm, self.run_dir, self.job_id = slurm, run_dir, job_id


class Sweep:
    """The command on the login node, in the background."""

    def __init__(self, slurm: SlurmCluster, folder: Path) -> None:
        self.slurm, self.folder = slurm, folder
        self.said = folder.with_name("said")

    @contextmanager
    def under_way(self) -> Iterator[subprocess.Popen]:
        """While the block runs; the jobs do not depend on it."""
        cache = f"+cluster.environment.DELTA_CACHE={os.environ['DELTA_CACHE']}"
        with self.said.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "launch.train", *SWEEP, cache, f"sweep={self.folder}"],
                cwd=ROOT,
                env=self.slurm.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def to_its_end(self) -> int:
        """Its exit code."""
        with self.under_way() as process:
            return process.wait(TIMEOUT_S)

    def sent(self) -> list[str]:
        """Members that were submitted, in order."""
        events = JsonLines(self.folder / "events.jsonl").rows()
        return [event["member"] for event in events if event["what"] == What.submitted.value]

    def member(self, name: str) -> Member:
        """A member, once its job was sent."""
        wait_until(lambda: name in self.sent(), lambda: f"{name} was not sent: {self.said.read_text()}")
        events = JsonLines(self.folder / "events.jsonl").rows()
        jobs = [event["job"] for event in events if event["member"] == name and event["job"]]
        return Member(self.slurm, self.folder / name, jobs[-1])

    def states(self) -> dict[str, State]:
        """How delta-report finds the members."""
        return {found.member.name: found.status.state for found in find_members(self.folder)}


def test_a_sweep_survives_preemption_failure_and_its_launcher(slurm: SlurmCluster, tmp_path: Path):
    sweep = Sweep(slurm, tmp_path / "sweep")
    first, second, third, fourth = (f"credit-{c}+seed-{s}" for c in ("uniform", "discriminative") for s in (1, 2))
    obstacle = sweep.folder / fourth / "checkpoints"
    obstacle.parent.mkdir(parents=True)
    obstacle.touch()  # where a folder should be: found when the first checkpoint is written

    with sweep.under_way() as process:
        preempted = sweep.member(first)
        preempted.wait_for("RUNNING")
        node = slurm.job(preempted.job_id)["NodeList"]
        with preempted.held(node):
            process.send_signal(signal.SIGINT)
            assert process.wait(TIMEOUT_S) == EXIT_INTERRUPTED, sweep.said.read_text()
            assert "the jobs that were sent go on by themselves" in sweep.said.read_text()
            urgent = slurm.submit("true", f"--nodelist={node}", "--exclusive", "--partition=high")
            preempted.wait_until_told()
    assert sweep.sent() == [first, second]  # two at once, and nobody there to send the others

    with sweep.under_way() as process:
        slurm.wait_for(urgent, "COMPLETED")
        slurm.start_now(preempted.job_id)
        assert process.wait(TIMEOUT_S * 2) == EXIT_MEMBERS, sweep.said.read_text()
    text = sweep.said.read_text()
    assert f"{first}: job {preempted.job_id} is under way" in text
    assert re.search(rf"{re.escape(fourth)} failed; the end of \S+/job/slurm.log:\n.*cannot write", text, re.DOTALL)
    assert "start 2 of at most" in (sweep.folder / first / "job" / "slurm.log").read_text()
    assert sweep.states() == {
        first: State.complete,
        second: State.complete,
        third: State.complete,
        fourth: State.failed,
    }
    assert sweep.sent() == [first, second, third, fourth]
    assert [row["step"] for row in preempted.rows()] == list(range(1, STEPS + 1))

    obstacle.unlink()
    assert sweep.to_its_end() == 0, sweep.said.read_text()
    assert "4 members, 3 of them complete" in sweep.said.read_text()
    assert sweep.sent() == [first, second, third, fourth, fourth]
    slurm.wait_until_clean()

    report = slurm.run(sys.executable, "-m", "launch.sweep", f"sweep={sweep.folder}", "baseline=uniform").stdout
    assert len(re.findall(rf"│ complete +│ {STEPS}/{STEPS} ", report)) == 4
    assert re.search(r"│ discriminative +│ 2/2 ", report)
    assert "minus uniform" in report
    for name in ("sweep.csv", "members.csv", "sweep.md", "sweep.png"):
        assert (sweep.folder / name).stat().st_size > 0
