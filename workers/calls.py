"""Waiting for actors: every wait has a deadline and names what it waits for; a dead actor is reported as such."""

import asyncio
from collections.abc import Mapping
from typing import Any

import ray

from delta.errors import DeltaError, WorkerError


async def gather(calls: Mapping[str, Any], *, phase: str, timeout_s: float) -> list[Any]:
    """Results of remote calls, in order; fails at the first failure without waiting for the rest.

    Args:
        calls: Object references by the name of the actor that was called.
        phase: What they do, for the message.
        timeout_s: Deadline for all of them.

    Raises:
        WorkerError: An actor died, or the deadline passed.
        DeltaError: Whatever of the kind an actor raised.
    """
    tasks = {name: asyncio.ensure_future(_as_future(call)) for name, call in calls.items()}
    done, pending = await asyncio.wait(tasks.values(), timeout=timeout_s, return_when=asyncio.FIRST_EXCEPTION)
    try:
        for name, task in tasks.items():
            if task in done and task.exception() is not None:
                raise translate(task.exception(), name=name, phase=phase)
        if pending:
            late = ", ".join(name for name, task in tasks.items() if task in pending)
            raise WorkerError(
                f"{phase}: no answer from {late} within {timeout_s:.0f} s. Look for what it is doing in the run's "
                "logs; raise cluster.timeout_s if it is only slow."
            )
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
    return [task.result() for task in tasks.values()]


def translate(error: BaseException | None, *, name: str, phase: str) -> BaseException:
    """The error to raise for what a remote call failed with."""
    if isinstance(error, ray.exceptions.RayTaskError):
        return error.cause if isinstance(error.cause, DeltaError) else error
    if isinstance(error, ray.exceptions.RayActorError):
        return WorkerError(f"{phase}: {name} died: {_cause(error)}. The run cannot go on without it.")
    return error or RuntimeError(phase)


def _cause(error: BaseException) -> str:
    """What Ray says happened: the exception that ended the actor's constructor, or why its process is gone."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (
        (" ".join(lines[-4:]) if "creation task" in lines[0] else lines[0]).rstrip(".")
        if lines
        else type(error).__name__
    )


async def _as_future(call: Any) -> Any:
    return await call
