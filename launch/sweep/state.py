"""How a member of a sweep is doing, told from its run folder, the launcher's events and the scheduler's queue."""

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import psutil
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from launch.command import EXIT_INTERRUPTED, EXIT_PREEMPTED
from launch.run_folder import SETTINGS
from launch.sweep.record import Event, Member, What
from workers.controller.metrics import JsonLines
from workers.controller.starting_point import finished_steps


class State(Enum):
    """What a member is doing."""

    complete = "complete"
    running = "running"
    waiting = "waiting"
    """It has not begun, or is in a queue."""
    preempted = "preempted"
    """It ended before its last step and goes on from a checkpoint when it is started again."""
    failed = "failed"
    incomplete = "incomplete"
    """It has begun, and nothing says what it is doing now: no launcher started it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What is known of a member."""

    state: State
    step: int
    """Training steps that are complete."""
    steps: int | None
    """Those that it will have made; None as long as it has no settings."""
    detail: str = ""
    """Why it waits or failed."""

    @property
    def text(self) -> str:
        """In a line: `failed: model.path=...`."""
        at = f" at step {self.step}" if self.state in (State.preempted, State.incomplete) else ""
        return f"{self.state.value}{at}{f': {self.detail}' if self.detail else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job that the scheduler knows."""

    state: State
    """Waiting or running; of a job that has ended, complete where it ended with 0, else preempted or failed."""
    detail: str = ""


def status_of(
    member: Member, event: Event | None, jobs: Mapping[str, Job] | None = None, *, steps: int | None = None
) -> Status:
    """How a member is doing.

    Args:
        member: Which.
        event: The last one of it.
        jobs: What the scheduler says, by job id; None if it was not asked.
        steps: That it shall make; None reads them from its folder.
    """
    steps = steps if steps is not None else steps_wanted(member.run_dir)
    finished = finished_steps(member.run_dir)
    if finished is not None and steps is not None and finished >= steps:
        return Status(state=State.complete, step=finished, steps=steps)
    state, detail = _unfinished(member, event, jobs or {})
    return Status(state=state, step=steps_done(member.run_dir), steps=steps, detail=detail)


def _unfinished(member: Member, event: Event | None, jobs: Mapping[str, Job]) -> tuple[State, str]:
    if event is None:
        return (State.incomplete, "") if (member.run_dir / SETTINGS).exists() else (State.waiting, "not begun")
    match event.what:
        case What.ended if event.code in (EXIT_PREEMPTED, EXIT_INTERRUPTED):
            return State.preempted, event.reason
        case What.ended if event.code == 0:
            return State.waiting, "its files are gone or it has more steps to make"
        case What.ended:
            return State.failed, event.reason
        case What.submitted:
            job = jobs.get(event.job, Job(state=State.incomplete, detail=f"job {event.job}, which was not asked about"))
            return job.state, job.detail
        case What.started if event.host != socket.gethostname():
            return State.running, f"on {event.host} since {event.time}, as far as is known here"
        case _:
            return (State.running, "") if _lives(event.pid, member) else (State.preempted, "its process was killed")


def _lives(pid: int, member: Member) -> bool:
    """Whether a process is that of the member, and no later one of the same number."""
    try:
        return any(str(member.run_dir) in argument for argument in psutil.Process(pid).cmdline())
    except psutil.Error:
        return False


def steps_done(run_dir: Path) -> int:
    """Training steps on the record."""
    rows = JsonLines(run_dir / "metrics.jsonl").rows()
    return int(rows[-1]["step"]) if rows else 0


def steps_wanted(run_dir: Path) -> int | None:
    """`steps` of the run's settings; None without readable ones."""
    try:
        return int(OmegaConf.load(run_dir / SETTINGS)["steps"])
    except (OSError, YAMLError, OmegaConfBaseException, KeyError, TypeError, ValueError, json.JSONDecodeError):
        return None
