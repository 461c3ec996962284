"""The verifier as two plain functions, for programs that want a verdict and no cluster."""

import atexit
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from delta.data.references import parse_reference
from delta.rewards import RewardConfig
from delta.types import Reference, Sample, Verdict
from workers.verifier.config import PoolConfig, ScoringConfig
from workers.verifier.supervisor import Supervisor


def score_math(response: str, answer: str | int | float) -> Verdict:
    r"""Score a response to a math problem in an isolated worker process, which is killed at its deadline.

    Args:
        response: What a model wrote; its last `\boxed{...}` counts, or a line `#### ...`, or what its last words state.
        answer: The reference, plain or LaTeX.

    Returns:
        The verdict; `reward` is 1 for `correct`, else 0.

    Raises:
        ValueError: The reference is no text or number, or empty.
    """
    return _score(response, parse_reference({"task": "math", "answer": answer}))


def score_code(
    program: str, tests: str | Sequence[Mapping[str, str]] | Mapping[str, Any], entry_point: str | None = None
) -> Verdict:
    """Score a program in a sandbox, see docs/sandbox.md.

    Args:
        program: Python source, or a response with a fenced block of it.
        tests: Python source whose asserts call the entry point; or, for a program that reads its standard input,
            inputs and outputs: `[{"input": ..., "output": ...}]`.
        entry_point: Name of the function under test; not needed for inputs and outputs.

    Returns:
        The verdict; `reward` is 1 for `correct`, else 0.

    Raises:
        ValueError: The tests are none of these.
    """
    return _score(program, parse_reference({"task": "code", "tests": tests, "entry_point": entry_point}))


class _Shared:
    """This process's supervisor, once it is needed; a fork of the process gets its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._supervisor: Supervisor | None = None

    def supervisor(self) -> Supervisor:
        with self._lock:
            if self._supervisor is None:
                self._supervisor = Supervisor(ScoringConfig(PoolConfig(cpu_share=1.0), RewardConfig()))
            return self._supervisor

    def close(self) -> None:
        if self._supervisor is not None:
            self._supervisor.close()

    def forget(self) -> None:
        """In a fork: what it inherited belongs to the parent, with a lock that somebody there may hold."""
        self._lock = threading.Lock()
        self._supervisor = None


_shared = _Shared()
atexit.register(_shared.close)
os.register_at_fork(after_in_child=_shared.forget)


def _score(response: str, answer: Reference) -> Verdict:
    return _shared.supervisor().submit(Sample(response, answer)).result()
