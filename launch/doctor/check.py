"""What a check found, and what all checks have in common."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import wraps

from delta.errors import DeltaError
from workers.controller.config import TrainConfig


class Status(Enum):
    """How a check ended."""

    ok = "ok"
    warning = "warning"
    """The run can start; something will be slower, less safe, or different from what was tested."""
    failed = "failed"
    """The run cannot work like this."""
    skipped = "skipped"
    """Does not apply here; the finding says why."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was seen and, where that is not as it should be, what was expected and what to do."""

    status: Status
    seen: str
    expected: str = ""
    remedy: str = ""
    output: str = ""
    """The last lines that a check wrote which did not end by itself."""


def ok(seen: str) -> Finding:
    """All is well."""
    return Finding(Status.ok, seen)


def warning(seen: str, *, expected: str, remedy: str) -> Finding:
    """The run can start."""
    return Finding(Status.warning, seen, expected, remedy)


def failed(seen: str, *, expected: str, remedy: str) -> Finding:
    """The run cannot work."""
    return Finding(Status.failed, seen, expected, remedy)


def skipped(reason: str) -> Finding:
    """Nothing to look at."""
    return Finding(Status.skipped, reason)


def explained(examine: Callable[[TrainConfig], Finding]) -> Callable[[TrainConfig], Finding]:
    """The errors that a command would end with: their messages say what was seen, what was expected and what to do."""

    @wraps(examine)
    def examined(config: TrainConfig) -> Finding:
        try:
            return examine(config)
        except DeltaError as error:
            return Finding(Status.failed, str(error))

    return examined


@dataclass(frozen=True, slots=True)
class Examination:
    """A check that can be done: one question about this machine and this configuration."""

    name: str
    examine: Callable[[TrainConfig], Finding]
    starts_processes: bool = False
    """Takes more than a moment, because processes have to start; left out by `--fast`."""
    of_node: bool = False
    """About the machine that the run will be on; left out where a run is only submitted from here."""
    of_storage: bool = False
    """About folders of the run, which pods have on their volumes."""
    of_inputs: bool = False
    """About what the run reads; left out where some of that is in the pods only."""
    timeout_s: float = 60.0
    """After that, what it waits for is taken not to come."""


@dataclass(frozen=True, slots=True)
class Check:
    """The answer."""

    name: str
    finding: Finding
    seconds: float = 0.0
