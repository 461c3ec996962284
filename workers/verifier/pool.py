"""The verifier pool: deals answers to workers, replaces the ones that die or hang, and always answers."""

import asyncio
from collections.abc import Sequence
from typing import Any

import ray

from delta.types import Outcome, Verdict
from workers.verifier.actor import VerifierActor
from workers.verifier.config import VerifierConfig

Answer = tuple[str, str]
"""A response and its reference answer."""


class VerifierPool:
    """Scores lots of answers on Ray actors; every answer gets exactly one verdict.

    A lot whose worker dies or exceeds the deadline is scored again answer by answer, so that only the culprit is
    charged: its outcome is `timeout` (or `error` when it kills its worker twice), its neighbours keep their own.
    """

    def __init__(self, config: VerifierConfig) -> None:
        """Start the workers."""
        self._config = config
        self._idle: asyncio.Queue[Any] = asyncio.Queue()
        self.actors = {self._start() for _ in range(config.num_workers)}
        self._loaded: set[Any] = set()
        for actor in self.actors:
            self._idle.put_nowait(actor)

    async def ready(self) -> None:
        """Return once all workers have loaded."""
        await asyncio.gather(*(self._warm(actor) for actor in self.actors))

    async def score(self, answers: Sequence[Answer]) -> list[Verdict]:
        """Verdicts in the order of the answers; waits for a free worker."""
        verdicts = await self._attempt(answers, timeout_s=self._config.timeout_s)
        if isinstance(verdicts, list):
            return verdicts
        if len(answers) > 1:
            return [verdict for answer in answers for verdict in await self.score([answer])]
        if verdicts is Outcome.error:  # an innocent answer may have met a dying worker: one more try
            verdicts = await self._attempt(answers, timeout_s=self._config.timeout_s)
            if isinstance(verdicts, list):
                return verdicts
        detail = f"no verdict within {self._config.timeout_s} s" if verdicts is Outcome.timeout else "worker died"
        return [Verdict(verdicts, 0.0, detail)]

    def close(self) -> None:
        """End the workers."""
        for actor in self.actors:
            ray.kill(actor)
        self.actors.clear()

    async def _attempt(self, answers: Sequence[Answer], *, timeout_s: float) -> list[Verdict] | Outcome:
        """One call to one worker; an outcome instead of verdicts means that the worker had to be replaced."""
        actor = await self._idle.get()
        try:
            if actor not in self._loaded:  # the deadline is for the answer, not for the start of a process
                await self._warm(actor)
            verdicts: list[Verdict] = await asyncio.wait_for(actor.score.remote(list(answers)), timeout_s)
        except TimeoutError:
            actor = self._replace(actor)
            return Outcome.timeout
        except ray.exceptions.RayActorError:
            actor = self._replace(actor)
            return Outcome.error
        else:
            return verdicts
        finally:
            self._idle.put_nowait(actor)

    async def _warm(self, actor: Any) -> None:
        await actor.ready.remote()
        self._loaded.add(actor)

    def _replace(self, actor: Any) -> Any:
        ray.kill(actor)
        self.actors.discard(actor)
        self._loaded.discard(actor)
        replacement = self._start()
        self.actors.add(replacement)
        return replacement

    @staticmethod
    def _start() -> Any:
        return VerifierActor.options(num_cpus=0, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}}).remote()
