"""A worker: scores what it is sent, in a process of its own, which may be killed at any time."""

import resource
from multiprocessing.connection import Connection
from typing import Protocol

from delta.types import Sample, Verdict


class Scores(Protocol):
    """What a worker works with; see `Scorer`."""

    def score(self, sample: Sample) -> Verdict:
        """One verdict."""

    def close(self) -> None:
        """Leave nothing behind."""


class VerifierWorker:
    """Answers one sample after another until it is told to end, or has grown too large."""

    def __init__(self, scorer: Scores, *, memory_mib: int) -> None:
        """Score with `scorer` in at most `memory_mib` of address space."""
        self._scorer = scorer
        self._memory_mib = memory_mib

    def serve(self, connection: "Connection[tuple[Verdict, bool], Sample]") -> None:
        """Answer with each sample's verdict, and whether this worker ends after it."""
        limit = self._memory_mib * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        try:
            while True:
                try:
                    sample = connection.recv()
                except EOFError:
                    return
                verdict = self._scorer.score(sample)
                # Sympy remembers what it has seen; a fresh fork costs less than a machine that swaps.
                retires = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > self._memory_mib * 2**10 // 4
                connection.send((verdict, retires))
                if retires:
                    return
        finally:
            self._scorer.close()
