"""The processes of a run: engines, verifier and learners, started together and ended together."""

import asyncio
from typing import Any

from workers.controller.config import TrainConfig
from workers.learner.group import LearnerGroup
from workers.processes import actor_processes, wait_until_gone
from workers.rollout.pool import RolloutPool
from workers.verifier.verifier import verifier_for


class Crew:
    """Everybody who works on a run. A dead engine can be replaced; for anything else there is a new crew."""

    def __init__(self, config: TrainConfig, *, model_path: str) -> None:
        """Start all processes; `ready` waits for them."""
        self._config = config
        self._model_path = model_path
        deadlines = config.faults.deadlines
        self.verifier = verifier_for(config.verifier, config.reward)
        self.rollouts = RolloutPool(
            model_path, config.rollout, dtype=config.model.dtype, seed=config.seed, deadlines=deadlines
        )
        self.learners = LearnerGroup(config.learner, deadlines=deadlines)

    async def ready(self) -> int:
        """Load the model everywhere, engines and learners side by side; returns its number of parameters."""
        config = self._config
        parameters, _, _ = await asyncio.gather(
            self.learners.set_up(
                self._model_path,
                config.algorithm,
                dtype=config.model.dtype,
                temperature=config.rollout.temperature,
                mismatch_limit=config.mismatch_limit,
            ),
            self.rollouts.ready(),
            self.verifier.ready(),
        )
        await self.learners.connect(self.rollouts.actors, config.rollout)
        return parameters

    def by_name(self) -> dict[str, Any]:
        """Learners and engines as messages name them; the verifier replaces its own."""
        return {**self.learners.by_name(), **self.rollouts.by_name()}

    async def replace_engines(self) -> None:
        """New engines, also for those that live: they are still busy with what nobody waits for any more.

        They hold the initial model until the learners connect to them and publish.
        """
        processes = actor_processes("RolloutWorker")
        self.rollouts.end()
        await asyncio.to_thread(wait_until_gone, processes)
        self.rollouts.start()
        await self.rollouts.ready()

    async def disband(self) -> None:
        """End all actors, those too that hang, and wait until they are gone."""
        processes = actor_processes()
        self.rollouts.end()
        self.learners.end()
        await asyncio.to_thread(self.verifier.close)
        await asyncio.to_thread(wait_until_gone, processes)
