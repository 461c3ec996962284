"""All rollout workers as one: deals prompts to engines and merges what they finish."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import ray

from delta.types import Floats, Rollout
from workers.calls import gather, stalled, translate
from workers.cluster.nodes import Node, pinned
from workers.deadlines import DeadlinesConfig
from workers.rollout.actor import RolloutActor
from workers.rollout.config import RolloutConfig
from workers.rollout.engine import engine_environment
from workers.rollout.worker import CHUNK, RolloutTask


class RolloutPool:
    """Engines that hold the same policy."""

    def __init__(
        self,
        model_path: str,
        config: RolloutConfig,
        *,
        dtype: str,
        seed: int,
        deadlines: DeadlinesConfig,
        nodes: Sequence[Node] = (),
        num_gpus: int = 0,
    ) -> None:
        """Start the engines; `ready` waits for them.

        Args:
            model_path: The initial model.
            config: Of engines and sampling.
            dtype: Of the weights.
            seed: Of the engines.
            deadlines: Of the calls.
            nodes: Of the engines, in their order; without, Ray chooses.
            num_gpus: GPUs of an engine; 0 on CPUs.
        """
        self._nodes, self._num_gpus = nodes, num_gpus
        self._deadlines = deadlines
        self._model_path, self._config, self._dtype, self._seed = model_path, config, dtype, seed
        self.actors: list[Any] = []
        self.start()
        self._awaited: dict[tuple[int, int], int] = {}
        """Place of the engine that samples a rollout, by group and index, while it is not finished."""

    def start(self) -> None:
        """Start engines; they hold the initial model."""
        environment = {"env_vars": engine_environment(self._config, on_gpu=self._num_gpus > 0)}
        self.actors = [
            RolloutActor.options(
                num_cpus=0,
                num_gpus=self._num_gpus,
                runtime_env=environment,
                scheduling_strategy=pinned(self._nodes[place] if self._nodes else None),
            ).remote(self._model_path, self._config, dtype=self._dtype, seed=self._seed)
            for place in range(self._config.num_workers)
        ]

    def end(self) -> None:
        """Kill the engines, whatever they are doing."""
        for actor in self.actors:
            ray.kill(actor)

    async def ready(self) -> None:
        """Return once all engines are loaded."""
        await self._all("engine start-up", [actor.ready.remote() for actor in self.actors], self._deadlines.start_s)

    def by_name(self) -> dict[str, Any]:
        """The engines as messages name them."""
        return {_name(place): actor for place, actor in enumerate(self.actors)}

    def awaited(self) -> dict[str, list[int]]:
        """Groups that are not finished, by the engine that samples them; of a generation that broke off, the last."""
        found: dict[str, list[int]] = {}
        for place, group in sorted({(place, group) for (group, _), place in self._awaited.items()}):
            found.setdefault(_name(place), []).append(group)
        return found

    async def generate(self, tasks: Sequence[RolloutTask], *, chunk: int = CHUNK) -> AsyncIterator[list[Rollout]]:
        """Sample all tasks; yields lots of about `chunk` rollouts as engines finish them. Groups are dealt whole.

        Raises:
            DiedError: An engine died.
            StallError: An engine finished nothing for `deadlines.generation_s`.
        """
        finished: asyncio.Queue[list[Rollout] | None] = asyncio.Queue()
        shares = self._deal(tasks)
        self._awaited = {(task.group, task.index): place for place, share in enumerate(shares) for task in share}
        readers = [
            asyncio.create_task(self._read(place, actor, share, chunk, finished))
            for place, (actor, share) in enumerate(zip(self.actors, shares, strict=True))
        ]
        try:
            running = len(readers)
            while running:
                lot = await finished.get()
                if lot is None:
                    running -= 1
                    for reader in readers:  # who failed is known at once, not when the others are done
                        if reader.done():
                            reader.result()
                else:
                    for rollout in lot:
                        self._awaited.pop((rollout.group, rollout.index), None)
                    yield lot
            for reader in readers:
                await reader
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)

    async def log_probs(self, token_ids: Sequence[int]) -> list[tuple[int, Floats]]:
        """Policy version and log-probabilities of the probe from each engine."""
        calls = [actor.log_probs.remote(token_ids) for actor in self.actors]
        return await self._all("parity probe", calls, self._deadlines.sync_s)

    def _deal(self, tasks: Sequence[RolloutTask]) -> list[list[RolloutTask]]:
        shares: list[list[RolloutTask]] = [[] for _ in self.actors]
        for task in tasks:
            shares[task.group % len(shares)].append(task)
        return shares

    async def _read(
        self,
        place: int,
        actor: Any,
        share: list[RolloutTask],
        chunk: int,
        finished: asyncio.Queue[list[Rollout] | None],
    ) -> None:
        deadline_s = self._deadlines.generation_s
        try:
            stream = actor.generate.options(num_returns="streaming").remote(share, chunk)
            while True:
                try:
                    reference = await asyncio.wait_for(anext(stream), deadline_s)
                    await finished.put(await asyncio.wait_for(_as_future(reference), deadline_s))
                except StopAsyncIteration:
                    return
                except TimeoutError as error:
                    raise stalled(
                        [_name(place)],
                        phase="generation",
                        timeout_s=deadline_s,
                        answered=[name for name in self.by_name() if name not in self.awaited()],
                    ) from error
                except ray.exceptions.RayError as error:
                    raise translate(error, name=_name(place), phase="generation") from error
        finally:
            await finished.put(None)

    async def _all(self, phase: str, calls: list[Any], within_s: float) -> list[Any]:
        named = {_name(place): call for place, call in enumerate(calls)}
        return await gather(named, phase=phase, timeout_s=within_s)


def _name(place: int) -> str:
    return f"rollout worker {place}"


async def _as_future(reference: Any) -> Any:
    return await reference
