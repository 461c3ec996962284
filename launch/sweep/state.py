"""How a member of a sweep is doing, told from its run folder, the launcher's events and the scheduler's queue."""

import json
import socket
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import psutil
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from launch.command import EXIT_INTERRUPTED, EXIT_PREEMPTED
from launch.run_folder import SETTINGS, is_held
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


UNDER_WAY = (State.waiting, State.running)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A member's job, as the scheduler knows it or as it ended."""

    state: State
    detail: str = ""
    code: int | None = None
    """How it ended."""


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
    code: int | None = None
    """How it ended, if it has."""

    @property
    def text(self) -> str:
        """In a line: `failed: model.path=...`."""
        at = f" at step {self.step}" if self.state in (State.preempted, State.incomplete) else ""
        return f"{self.state.value}{at}{f': {self.detail}' if self.detail else ''}"


def status_of(member: Member, event: Event | None, job: Job | None = None, *, steps: int | None = None) -> Status:
    """How a member is doing.

    Args:
        member: Which.
        event: The last one of it.
        job: Where that is a submission, what became of it; None if nobody was asked.
        steps: That it shall make; None reads them from its folder.
    """
    steps = steps if steps is not None else steps_wanted(member.run_dir)
    finished = finished_steps(member.run_dir)
    if finished is not None and steps is not None and finished >= steps:
        return Status(state=State.complete, step=finished, steps=steps)
    now = _unfinished(member, event, job)
    step = steps_done(member.run_dir)
    return Status(state=now.state, step=step, steps=steps, detail=now.detail, code=now.code)


def _unfinished(member: Member, event: Event | None, job: Job | None) -> Job:
    """The same for a process as for a job."""
    if event is None:
        begun = (member.run_dir / SETTINGS).exists()
        return Job(state=State.incomplete) if begun else Job(state=State.waiting, detail="not begun")
    match event.what:
        case What.ended if event.code in (EXIT_PREEMPTED, EXIT_INTERRUPTED, None):
            return Job(state=State.preempted, detail=event.reason, code=event.code)
        case What.ended if event.code == 0:
            return Job(state=State.waiting, detail="its files are gone, or it has more steps to make")
        case What.ended:
            return Job(state=State.failed, detail=event.reason, code=event.code)
        case What.submitted:
            return job or Job(state=State.incomplete, detail=f"job {event.job}, which was not asked about")
        case What.started if event.host != socket.gethostname():
            # Its processes cannot be seen from here; the lock on its folder can, on most shared file systems.
            if is_held(member.run_dir, unknown=True):
                return Job(state=State.running, detail=f"on {event.host} since {event.time}, as far as is known here")
            return Job(state=State.preempted, detail=f"it was killed on {event.host}")
        case _ if _lives(event.pid, member):
            return Job(state=State.running)
    return Job(state=State.preempted, detail="its process was killed")


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
        settings: Any = OmegaConf.load(run_dir / SETTINGS)
        return int(settings["steps"])
    except (OSError, YAMLError, OmegaConfBaseException, KeyError, TypeError, ValueError, json.JSONDecodeError):
        return None
