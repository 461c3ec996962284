"""A node's share of the verifier pool: a supervisor with its processes, behind asynchronous calls."""

import asyncio
import os
from collections.abc import Sequence

from delta.types import Sample, Verdict
from workers.verifier.config import ScoringConfig
from workers.verifier.supervisor import Supervisor


class VerifierHost:
    """Scores answers on this node."""

    def __init__(self, config: ScoringConfig, *, workers: int) -> None:
        """Supervise `workers` processes."""
        self._supervisor = Supervisor(config, workers=workers)

    async def ready(self) -> None:
        """Return once the processes can start; raise if they never will."""
        await asyncio.to_thread(self._supervisor.ready)

    async def score(self, samples: Sequence[Sample]) -> tuple[list[Verdict], int]:
        """Verdicts in the order of the samples; and the worker processes that died or were killed so far."""
        futures = [asyncio.wrap_future(self._supervisor.submit(sample)) for sample in samples]
        return await asyncio.gather(*futures), self._supervisor.replaced

    async def pids(self) -> list[int]:
        """This process and its workers, for whoever watches or kills them."""
        return [os.getpid(), *self._supervisor.pids]

    async def close(self) -> None:
        """End all processes; what still waits is an error."""
        await asyncio.to_thread(self._supervisor.close)
