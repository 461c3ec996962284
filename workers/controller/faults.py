"""What becomes of a run after a process died or hung: who it was, what is written down, and whether to start again.

Only a `FaultError` is recoverable. Mistakes in settings, data or code would be made again, so they end the run.
"""

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from delta.errors import ConnectionLostError, DiedError, ExhaustedError, FaultError, StallError
from workers.calls import find_dead
from workers.cluster.nodes import Node, is_attached
from workers.controller.config import FaultsConfig
from workers.controller.console import RunConsole
from workers.controller.metrics import JsonLines
from workers.stall_report import oom_kills, write_stall_report

NOTICE_S = 10.0
"""How long to wait for the notice of a death: the others often feel the broken connection first."""

RAYS_GUESSES = re.compile(r"\s*(There are some potential root causes|Some common causes include).*", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One line of `faults.jsonl`."""

    time: str
    """ISO 8601."""
    step: int
    """Training steps that were complete."""
    phase: str
    who: str
    cause: str
    action: str
    """What the run did about it."""


class Restarts:
    """How often a run may still start again: counted anew once it gets beyond the step that failed."""

    def __init__(self, limit: int) -> None:
        """Allow `limit` restarts without progress."""
        self.limit = limit
        self.count = 0
        self._failed_after = -1

    def allow(self, step: int) -> bool:
        """Count a fault after `step` complete steps; whether the run may start again."""
        if step > self._failed_after:
            self.count = 0
            self._failed_after = step
        self.count += 1
        return self.count <= self.limit


class FaultDesk:
    """Takes in the faults of a run."""

    def __init__(self, config: FaultsConfig, *, run_dir: Path, console: RunConsole) -> None:
        """No fault yet."""
        self._restarts = Restarts(config.max_restarts)
        self._run_dir = run_dir
        self._console = console
        self._book = JsonLines(run_dir / "faults.jsonl")
        self._oom_kills = oom_kills()

    async def take_in(
        self,
        error: FaultError,
        *,
        step: int,
        actors: Mapping[str, Any],
        awaited: Mapping[str, Sequence[str]],
        nodes: Sequence[Node] = (),
        remedy: str = "restart",
    ) -> Fault:
        """Find out who it was and write down what is known; returns when the run may start again.

        Args:
            error: What the controller noticed first.
            step: Training steps that are complete.
            actors: Learners and engines by name.
            awaited: Ids of the prompts whose rollouts are not there, by engine.
            nodes: Where they work.
            remedy: What is about to be done.

        Raises:
            ExhaustedError: The run has been restarted often enough; the message is the report.
        """
        who, cause = error.who, error.cause
        if isinstance(error, StallError):
            cause += await self._report(error, step=step, actors=actors, awaited=awaited, nodes=nodes)
        elif dead := await find_dead(actors, within_s=NOTICE_S):
            who = ", ".join(dead)
            cause = self._cause_of_death(next(iter(dead.values())))
        elif isinstance(error, ConnectionLostError):
            who, cause = f"unknown ({who} lost its connection, and all processes live)", error.cause
        elif isinstance(error, DiedError):
            cause = self._cause_of_death(cause)
        return self._decide(who=who, phase=error.phase, cause=cause, step=step, error=error, remedy=remedy)

    async def _report(
        self,
        stall: StallError,
        *,
        step: int,
        actors: Mapping[str, Any],
        awaited: Mapping[str, Sequence[str]],
        nodes: Sequence[Node],
    ) -> str:
        """Write the stall report; what to add to the cause. Without room for it the run may still be mended."""
        try:
            report = await write_stall_report(
                self._run_dir, stall, step=step, awaited=awaited, actors=list(actors), nodes=nodes
            )
        except OSError as error:
            self._console.warn(f"{stall.phase}: no answer from {stall.who}; no stall report could be written: {error}")
            return ""
        self._console.warn(f"{stall.phase}: no answer from {stall.who}; stacks of all processes are in {report}")
        return f"; see {report.name}"

    def _decide(self, *, who: str, phase: str, cause: str, step: int, error: FaultError, remedy: str) -> Fault:
        restarts = self._restarts
        allowed = restarts.allow(step)
        action = f"{remedy} {restarts.count} of {restarts.limit}" if allowed else "stop"
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        fault = Fault(time=now, step=step, phase=phase, who=who, cause=cause, action=action)
        self._book.append(asdict(fault))
        happened = (
            f"{who} {'hangs' if isinstance(error, StallError) else 'died'} in {phase} after step {step}: {cause}."
        )
        if allowed:
            self._console.warn(f"{happened} {action.capitalize()}.")
            return fault
        raise ExhaustedError(
            f"{happened} The run has not got beyond this step: faults.max_restarts={restarts.limit} is used up. Look "
            "into ray_logs and faults.jsonl in the run folder; once the cause is mended, the same command goes on from "
            "the last checkpoint."
        ) from error

    def _cause_of_death(self, said: str) -> str:
        """Ray's words without its guesses, and the kernel's."""
        kills, self._oom_kills = oom_kills() - self._oom_kills, oom_kills()
        host = "the driver's host" if is_attached() else "this host"
        if kills > 0:
            kernel = f"the kernel killed {kills} process{'es' * (kills > 1)} of {host} for want of memory (OOM)"
        else:
            kernel = f"killed or crashed; the kernel killed no process of {host} for want of memory"
        return f"{RAYS_GUESSES.sub('', said).rstrip('. ')} ({kernel})"
