"""Waiting for actors: every wait has a deadline and names what it waits for; a dead actor is reported as such."""

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import ray

from delta.errors import ConnectionLostError, DeltaError, DiedError, StallError, WorkerError

GONE = (
    ray.exceptions.RayActorError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.ActorUnschedulableError,
    ray.exceptions.TaskUnschedulableError,
)
"""What calls to a process fail with that is gone; Ray's memory monitor has an exception of its own, lost nodes several:
for actors and tasks that ran there, for objects that were there, and for what was to be started there."""

CONNECTION_LOST = re.compile(
    r"connection (closed|reset|aborted|refused)|closed by peer|broken pipe|socket (closed|timeout)"
    r"|no route to host|(network|host) is unreachable|connection timed out"
    r"|gloo/transport|timed out waiting|ncclRemoteError|ncclSystemError|nccl communicator was aborted"
    r"|Dist(Backend|Network|Store)Error",
    re.IGNORECASE,
)
"""What collectives raise when a peer is gone; torch has no type of its own for it."""


async def gather(calls: Mapping[str, Any], *, phase: str, timeout_s: float) -> list[Any]:
    """Results of remote calls, in order; fails at the first failure without waiting for the rest.

    Args:
        calls: Object references by the name of the actor that was called.
        phase: What they do, for the message.
        timeout_s: Deadline for all of them.

    Raises:
        DiedError: An actor died.
        ConnectionLostError: An actor lost the others; who died is not known yet.
        StallError: The deadline passed.
        DeltaError: Whatever of the kind an actor raised.
    """
    tasks = {name: asyncio.ensure_future(_as_future(call)) for name, call in calls.items()}
    try:
        done, pending = await asyncio.wait(tasks.values(), timeout=timeout_s, return_when=asyncio.FIRST_EXCEPTION)
        for name, task in tasks.items():
            if task in done and (error := task.exception()) is not None:
                raise translate(error, name=name, phase=phase)
        if pending:
            silent = [name for name, task in tasks.items() if task in pending]
            raise stalled(
                silent, phase=phase, timeout_s=timeout_s, answered=[name for name in tasks if name not in silent]
            )
        return [task.result() for task in tasks.values()]
    finally:  # also of those that failed together with the first: asyncio prints what nobody asked for
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)


async def find_dead(actors: Mapping[str, Any], *, within_s: float) -> dict[str, str]:
    """Which actors are dead, and what Ray says about it; returns as soon as it knows of one.

    A call to a dead actor fails at once, one to a busy actor waits for its turn, so silence means life.
    """
    tasks = {asyncio.ensure_future(_as_future(actor.__ray_ready__.remote())): name for name, actor in actors.items()}
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    dead: dict[str, str] = {}
    pending = set(tasks)
    while pending and not dead and (left_s := deadline - loop.time()) > 0:
        done, pending = await asyncio.wait(pending, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        dead = {tasks[task]: cause_of(error) for task in done if isinstance(error := task.exception(), GONE)}
    for task in pending:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return dead


def translate(error: BaseException, *, name: str, phase: str) -> BaseException:
    """The error to raise for what a remote call failed with."""
    if isinstance(error, ray.exceptions.RayTaskError):
        if isinstance(error.cause, DeltaError):
            return error.cause
        # Met by somebody who lives: one who is gone, or what was on a lost node.
        if lost := cause_of(error.cause) if isinstance(error.cause, GONE) else _lost_connection(error.cause):
            return ConnectionLostError(f"{phase}: {name}: {lost}", who=name, phase=phase, cause=lost)
        return error
    if isinstance(error, GONE):
        cause = cause_of(error)
        message = f"{phase}: {name} died: {cause}. The run cannot go on without it."
        if getattr(error, "actor_init_failed", False):  # it would fail again
            return WorkerError(message)
        return DiedError(message, who=name, phase=phase, cause=cause)
    return error


def stalled(silent: list[str], *, phase: str, timeout_s: float, answered: list[str]) -> StallError:
    """The error for those that did not answer in time."""
    late = ", ".join(silent)
    return StallError(
        f"{phase}: no answer from {late} within {timeout_s:g} s. Look for what it is doing in the run's logs; raise "
        "the deadline of that phase (faults.deadlines) if it is only slow.",
        who=late,
        phase=phase,
        cause=f"no answer within {timeout_s:g} s",
        answered=tuple(answered),
    )


def cause_of(error: BaseException | None) -> str:
    """What Ray says happened: the exception that ended the actor's constructor, or why its process is gone."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if isinstance(error, ray.exceptions.OutOfMemoryError):  # advice and a table of processes follow
        return lines[0].rstrip(".")
    if "creation task" in lines[0]:
        return " ".join(lines[-4:]).rstrip(".")
    # After the actor's particulars, one a line with a colon, comes the reason; the first line says only that it died.
    reasons = [line for line in lines[1:] if not _PARTICULAR.match(line)]
    return (" ".join(reasons) or lines[0]).rstrip(".")


_PARTICULAR = re.compile(r"(class_name|actor_id|pid|name|namespace|ip): ")


def _lost_connection(error: BaseException | None) -> str | None:
    """The line in which a collective says that it lost a peer, if that is what ended the call."""
    if not isinstance(error, RuntimeError | OSError):  # what collectives raise; a ValueError may quote anything
        return None
    text = f"{type(error).__name__}: {error}"
    lines = [line.strip() for line in text.splitlines() if CONNECTION_LOST.search(line)]
    return lines[-1][:300] if lines else None


async def _as_future(call: Any) -> Any:
    return await call
