"""The processes of a run: engines, verifier and learners, started together and ended together."""

import asyncio
from collections.abc import Sequence
from typing import Any

import psutil

from workers.cluster.nodes import everywhere, is_attached, listed
from workers.controller.config import TrainConfig
from workers.controller.roster import Station
from workers.learner.group import LearnerGroup
from workers.processes import actor_processes, end_actors_of_job, wait_until_gone
from workers.rollout.pool import RolloutPool
from workers.verifier.verifier import verifier_for

END_S = 20.0
"""How long nodes may take to say that the run's processes on them are gone."""


class Crew:
    """Everybody who works on a run. A dead engine can be replaced; for anything else there is a new crew."""

    def __init__(self, config: TrainConfig, *, model_path: str, stations: Sequence[Station]) -> None:
        """Start all processes; `ready` waits for them.

        Args:
            config: The run's.
            model_path: The model that it begins with.
            stations: The nodes, and who is to work on which.
        """
        self._config = config
        self._model_path = model_path
        self.nodes = [station.node for station in stations]
        deadlines = config.faults.deadlines
        on_gpus = config.cluster.num_gpus > 0
        self.verifier = verifier_for(config.verifier, config.reward, nodes=self.nodes)
        self.rollouts = RolloutPool(
            model_path,
            config.rollout,
            dtype=config.model.dtype,
            seed=config.seed,
            deadlines=deadlines,
            nodes=[station.node for station in stations for _ in station.share.engines],
            num_gpus=config.rollout.tensor_parallel_size if on_gpus else 0,
        )
        self.learners = LearnerGroup(
            config.learner,
            deadlines=deadlines,
            nodes=[station.node for station in stations for _ in station.share.learner_ranks],
            num_gpus=1 if on_gpus else 0,
        )

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
        await self.learners.connect(self.rollouts.actors)
        return parameters

    def by_name(self) -> dict[str, Any]:
        """Learners and engines as messages name them; the verifier replaces its own."""
        return {**self.learners.by_name(), **self.rollouts.by_name()}

    def has_its_nodes(self) -> bool:
        """Whether Ray takes all its nodes for alive; on others there would have to be a new crew."""
        return set(self.nodes) <= set(listed())

    async def replace_engines(self) -> None:
        """New engines, also for those that live: they are still busy with what nobody waits for any more.

        They hold the initial model until the learners connect to them and publish.
        """
        processes = actor_processes("RolloutWorker")
        self.rollouts.end()
        await self._gone(processes, "RolloutWorker")
        self.rollouts.start()
        await self.rollouts.ready()

    async def disband(self) -> None:
        """End all actors, those too that hang, and wait until they are gone."""
        processes = actor_processes()
        self.rollouts.end()
        self.learners.end()
        await asyncio.to_thread(self.verifier.close)
        await self._gone(processes)

    async def _gone(self, processes: Sequence[psutil.Process], *kinds: str) -> None:
        """Wait until actors that were told to end are gone: those here, and on nodes that answer those of `kinds`.

        What lives on where nobody answers is of no consequence: it is called by nobody, and has nowhere to write.
        """
        await asyncio.to_thread(wait_until_gone, processes)
        if is_attached():
            await everywhere(self.nodes, end_actors_of_job, *kinds, timeout_s=END_S)
