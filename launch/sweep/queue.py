"""What Slurm knows about the jobs of a sweep, and how those ended that it has forgotten."""

import time
from collections.abc import Sequence
from pathlib import Path

from delta.errors import SubmissionError
from launch.command import EXIT_INTERRUPTED, EXIT_PREEMPTED, EXIT_USER_ERROR
from launch.submit.slurm.commands import run
from launch.submit.slurm.config import SlurmConfig
from launch.submit.slurm.marks import ENDED, Marks
from launch.sweep.reason import reason_in
from launch.sweep.record import Event, Member
from launch.sweep.state import Job, State

QUEUED = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD", "SUSPENDED", "STOPPED")
"""Slurm's states of a job that holds no nodes, or is not let run on them."""
REMEMBERED = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT")
"""Those of one that is over, which squeue may still show for a moment."""


VISIBLE_S = 90.0
"""How long clients of a network file system may believe that a file is not there."""


def log_of(member: Member) -> Path:
    """Output of all jobs of a member."""
    return member.run_dir / "job" / "slurm.log"


def jobs_of(submitted: Sequence[tuple[Member, Event]]) -> dict[str, Job]:
    """How the members' jobs are doing, by member.

    Raises:
        SubmissionError: Slurm cannot be asked.
    """
    on_slurm, elsewhere = _by_cluster(submitted)
    if not on_slurm:
        return elsewhere
    shown = [line.split("|", 2) for line in run("squeue", "--noheader", "--me", "--format=%i|%T|%R").splitlines()]
    queue = {job: (state, detail) for job, state, detail in shown if state not in REMEMBERED}
    return elsewhere | {member.name: _job(member, event.job, queue.get(event.job)) for member, event in on_slurm}


def jobs_as_far_as_known(submitted: Sequence[tuple[Member, Event]]) -> dict[str, Job]:
    """The same where Slurm may not be there to be asked, such as on another machine."""
    try:
        return jobs_of(submitted)
    except SubmissionError as error:
        on_slurm, elsewhere = _by_cluster(submitted)
        return elsewhere | {
            member.name: _ended(member, event.job) or Job(state=State.incomplete, detail=f"job {event.job}; {error}")
            for member, event in on_slurm
        }


def _by_cluster(submitted: Sequence[tuple[Member, Event]]) -> tuple[list[tuple[Member, Event]], dict[str, Job]]:
    """Those that Slurm has, and what can be said of the others without their clusters' settings."""
    on_slurm = [(member, event) for member, event in submitted if event.cluster == SlurmConfig.kind_of_cluster]
    elsewhere = {
        member.name: Job(state=State.incomplete, detail=f"job {event.job} on {event.cluster}, which was not asked")
        for member, event in submitted
        if event.cluster != SlurmConfig.kind_of_cluster
    }
    return on_slurm, elsewhere


def _job(member: Member, job_id: str, queued: tuple[str, str] | None) -> Job:
    if queued is None:
        gone = Job(state=State.preempted, detail=f"job {job_id} was cancelled or lost, and did not say how it ended")
        return _ended(member, job_id) or gone
    state, detail = queued
    if state in QUEUED:
        return Job(state=State.waiting, detail=f"job {job_id}, {state.lower()} {detail}")
    return Job(state=State.running, detail=f"job {job_id} on {detail}" if state == "RUNNING" else f"job {job_id}")


def _ended(member: Member, job_id: str) -> Job | None:
    """How the last start of a job ended; None if it never said so."""
    starts = sorted((member.run_dir / "job").glob(f"start-{job_id}-*"), key=lambda path: int(path.name.rsplit("-")[-1]))
    code = Marks(starts[-1]).read(ENDED).strip() if starts else ""
    if not code:
        return None
    if int(code) in (EXIT_PREEMPTED, EXIT_INTERRUPTED):
        return Job(state=State.preempted, code=int(code), detail=f"job {job_id} was not put back into the queue")
    if int(code) == 0:
        if time.time() < (starts[-1] / ENDED).stat().st_mtime + VISIBLE_S:
            return Job(
                state=State.running, detail=f"job {job_id} has ended, its last files are not to be seen here yet"
            )
        lost = f"job {job_id} ended well, but its last files are not there"
        return Job(state=State.failed, code=EXIT_USER_ERROR, detail=lost)
    return Job(state=State.failed, code=int(code), detail=reason_in(log_of(member)))
