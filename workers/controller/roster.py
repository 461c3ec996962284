"""Which nodes a run works on, and who works where: found out for every crew, since nodes are lost and come back."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from delta.errors import ConfigError, MissingNodesError
from workers.cluster.nodes import Node, describe, everywhere, is_attached, listed
from workers.cluster.sight import VISIBLE_S, canary_in, unseen
from workers.controller.config import TrainConfig
from workers.placement import NodePlacement

POLL_S = 1.0
"""How often nodes are counted while too few are there."""


@dataclass(frozen=True, slots=True)
class Station:
    """A node with those who work on it."""

    node: Node
    share: NodePlacement

    def __str__(self) -> str:
        """As messages name it."""
        parts = {"learner ranks": self.share.learner_ranks, "rollout workers": self.share.engines}
        there = ", ".join(f"{name} {_range(numbers)}" for name, numbers in parts.items() if numbers)
        return f"{self.node}: {there or 'verifiers only'}"


class Roster:
    """The nodes of a run.

    The first crew finds as many as were waited for. After a loss the survivors do all the work if they can: on CPUs
    always, with GPUs if there are enough of them; otherwise the lost ones have some time to come back.
    """

    def __init__(self, config: TrainConfig, *, model_path: str, run_dir: Path, say: Callable[[str], None]) -> None:
        """Nobody has been looked for.

        Args:
            config: The run's.
            model_path: Must be visible on every node, unless it is a name on the hub.
            run_dir: Likewise, and it must be the same folder there.
            say: Told who works where, in a cluster that somebody else started.
        """
        self._config = config
        self._files = [Path(model_path) / "config.json"] if Path(model_path).is_dir() else []
        self._run_dir = run_dir
        self._say = say
        self._known: dict[str, Node] = {}
        """Nodes that have worked for the run, by address."""

    async def stations(self) -> tuple[Station, ...]:
        """The nodes that are there, and who is to work on which; the head comes first.

        Raises:
            MissingNodesError: Too few nodes for all to fit, after `faults.deadlines.start_s`.
            ConfigError: A node does not see the run folder or the model.
        """
        if not is_attached():
            return self._placed(listed())
        nodes = await self._enough()
        self._known.update((node.address, node) for node in nodes)
        stations = self._placed(nodes)
        self._say(f"{len(stations)} of {self._config.nodes} nodes: {' | '.join(map(str, stations))}")
        return stations

    async def _enough(self) -> list[Node]:
        loop = asyncio.get_running_loop()
        within_s = self._config.faults.deadlines.start_s
        deadline = loop.time() + within_s
        while True:
            nodes = await self._answering(max(deadline - loop.time(), POLL_S))
            if self._fit(nodes):
                return nodes
            if loop.time() > deadline:
                missing = [node for address, node in self._known.items() if address not in _addresses(nodes)]
                raise MissingNodesError(
                    f"{len(nodes)} of {self._config.nodes} nodes answer ({describe(nodes)}), too few for all learner "
                    f"ranks and engines; missing for {within_s:g} s: {describe(missing)}. The run ends so that it can "
                    "be started again on whole nodes; it goes on from its last checkpoint."
                )
            await asyncio.sleep(POLL_S)

    async def _answering(self, within_s: float) -> list[Node]:
        """The nodes that do something when they are asked to, which a dead one that is listed still does not.

        Raises:
            ConfigError: One of them does not see what it must.
        """
        with canary_in(self._run_dir) as canary:
            answers = await everywhere(
                listed(num_gpus=self._config.cluster.num_gpus),
                unseen,
                canary,
                self._files,
                VISIBLE_S,
                timeout_s=within_s,
            )
        if blind := [f"{answer.node}: {'; '.join(answer.value)}" for answer in answers if answer.value]:
            raise ConfigError(
                f"not every node sees the files of the run. {'. '.join(blind)}. Put run_dir and the model into a "
                "folder that all nodes share under the same path; models that the project makes are in DELTA_CACHE."
            )
        return [answer.node for answer in answers if not answer.trouble][: self._config.nodes]

    def _fit(self, nodes: Sequence[Node]) -> bool:
        if not nodes:
            return False
        try:
            self._placed(nodes)
        except ConfigError:
            return False
        return True

    def _placed(self, nodes: Sequence[Node]) -> tuple[Station, ...]:
        return tuple(map(Station, nodes, self._config.placement(nodes=len(nodes))))


def _addresses(nodes: Sequence[Node]) -> set[str]:
    return {node.address for node in nodes}


def _range(numbers: tuple[int, ...]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"
