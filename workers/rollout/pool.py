"""All rollout workers as one: deals prompts to engines and merges what they finish."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import ray

from delta.errors import WorkerError
from delta.types import Floats, Rollout
from workers.calls import gather, translate
from workers.rollout.actor import RolloutActor
from workers.rollout.config import RolloutConfig
from workers.rollout.engine import engine_environment
from workers.rollout.worker import RolloutTask


class RolloutPool:
    """Engines that hold the same policy."""

    def __init__(self, model_path: str, config: RolloutConfig, *, dtype: str, seed: int, timeout_s: float) -> None:
        """Start the engines; `ready` waits for them."""
        self._timeout_s = timeout_s
        self.actors = [
            RolloutActor.options(num_cpus=0, runtime_env={"env_vars": engine_environment(config)}).remote(
                model_path, config, dtype=dtype, seed=seed
            )
            for _ in range(config.num_workers)
        ]

    async def ready(self) -> None:
        """Return once all engines are loaded."""
        await self._all("engine start-up", [actor.ready.remote() for actor in self.actors])

    async def generate(self, tasks: Sequence[RolloutTask]) -> AsyncIterator[list[Rollout]]:
        """Sample all tasks; yields lots of rollouts as engines finish them. Groups are dealt whole.

        Raises:
            WorkerError: An engine died, or stayed silent for `timeout_s`.
        """
        finished: asyncio.Queue[list[Rollout] | None] = asyncio.Queue()
        readers = [
            asyncio.create_task(self._read(place, actor, share, finished))
            for place, (actor, share) in enumerate(zip(self.actors, self._deal(tasks), strict=True))
        ]
        try:
            running = len(readers)
            while running:
                lot = await finished.get()
                if lot is None:
                    running -= 1
                else:
                    yield lot
            for reader in readers:
                reader.result()
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)

    async def log_probs(self, token_ids: Sequence[int]) -> list[tuple[int, Floats]]:
        """Policy version and log-probabilities of the probe from each engine."""
        return await self._all("parity probe", [actor.log_probs.remote(token_ids) for actor in self.actors])

    def _deal(self, tasks: Sequence[RolloutTask]) -> list[list[RolloutTask]]:
        shares: list[list[RolloutTask]] = [[] for _ in self.actors]
        for task in tasks:
            shares[task.group % len(shares)].append(task)
        return shares

    async def _read(
        self, place: int, actor: Any, share: list[RolloutTask], finished: asyncio.Queue[list[Rollout] | None]
    ) -> None:
        name = f"rollout worker {place}"
        try:
            stream = actor.generate.options(num_returns="streaming").remote(share)
            while True:
                try:
                    reference = await asyncio.wait_for(anext(stream), self._timeout_s)
                    await finished.put(await reference)
                except StopAsyncIteration:
                    return
                except TimeoutError as error:
                    raise WorkerError(
                        f"generation: {name} finished nothing within {self._timeout_s:.0f} s; raise "
                        "cluster.timeout_s if its answers take that long."
                    ) from error
                except ray.exceptions.RayError as error:
                    raise translate(error, name=name, phase="generation") from error
        finally:
            await finished.put(None)

    async def _all(self, phase: str, calls: list[Any]) -> list[Any]:
        named = {f"rollout worker {place}": call for place, call in enumerate(calls)}
        return await gather(named, phase=phase, timeout_s=self._timeout_s)
