"""The verifier pool: an actor on every node, answers dealt to the least busy, and always one verdict for each."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from delta.errors import WorkerError
from delta.rewards import RewardConfig
from delta.types import Outcome, Sample, Verdict
from workers.calls import GONE, gather
from workers.cluster.nodes import Node, listed, pinned
from workers.verifier.actor import VerifierActor
from workers.verifier.cache import VerdictCache
from workers.verifier.config import PoolConfig, ScoringConfig
from workers.verifier.supervisor import workers_for
from workers.verifier.verifier import VerifierStatistics

LOT = 16
"""Answers in one call to an actor, at most: enough to hide the call, few enough to deal evenly."""
MAX_LOST = 3
"""Actors that an answer may be lost with before it gets the outcome `error`."""
START_S = 300.0
"""How long an actor may take to load."""
STOP_S = 20.0
"""How long the actors may take to end their processes."""


@dataclass(slots=True, eq=False)
class Host:
    """An actor, where it runs, and what it has to do."""

    node: Node
    workers: int
    actor: Any
    load: int = 0
    """Answers it has."""
    replaced: int = 0
    """Worker processes that it has lost, as far as it has said."""
    loading: "asyncio.Task[None] | None" = field(default=None)


class VerifierPool:
    """Scores answers on the cluster's CPUs.

    Every node has an actor with killable worker processes. An answer that hangs or kills its process is that process's
    and nobody else's trouble; a lost actor is replaced and its answers are scored elsewhere. A lost node is not: the
    others do its work. `score` waits while all actors have their hands full, which is what slows rollouts down to what
    can be verified.
    """

    def __init__(self, config: PoolConfig, reward: RewardConfig, *, nodes: Sequence[Node] = ()) -> None:
        """Start an actor on each of the nodes; without any, on all that have CPUs."""
        self._config = config
        self._scoring = ScoringConfig(config, reward)
        self._cache = VerdictCache(config.cache_size)
        self._statistics = VerifierStatistics()
        self._counted_hits = 0
        self._room = asyncio.Condition()
        self._hosts = [self._start(node, workers_for(self._scoring, cpus=node.cpus)) for node in nodes or listed()]
        if not self._hosts:
            raise WorkerError("no node of the cluster has CPUs for verifiers; expected at least one.")

    @property
    def actors(self) -> list[Any]:
        """The actors there are now."""
        return [host.actor for host in self._hosts]

    async def ready(self) -> None:
        """Return once all actors have loaded."""
        await asyncio.gather(*(self._loaded(host) for host in self._hosts))

    async def score(self, samples: Sequence[Sample]) -> list[Verdict]:
        """Verdicts in the order of the samples; waits while the pool is full."""
        return await self._cache.score(samples, self._score)

    def take_statistics(self) -> VerifierStatistics:
        """What happened since the last call."""
        taken, self._statistics = self._statistics, VerifierStatistics()
        taken.cached, self._counted_hits = self._cache.hits - self._counted_hits, self._cache.hits
        return taken

    def close(self) -> None:
        """End the actors; their processes end with them.

        They are asked first, for Ray kills an actor's processes without asking what those have started.
        """
        loaded = [host for host in self._hosts if host.loading and host.loading.done()]
        if loaded:
            ray.wait([host.actor.close.remote() for host in loaded], num_returns=len(loaded), timeout=STOP_S)
        for host in self._hosts:
            ray.kill(host.actor)
        self._hosts.clear()

    async def _score(self, samples: Sequence[Sample]) -> list[Verdict]:
        size = min(LOT, self._config.max_in_flight)
        lots = [samples[first : first + size] for first in range(0, len(samples), size)]
        return [verdict for lot in await asyncio.gather(*map(self._score_lot, lots)) for verdict in lot]

    async def _score_lot(self, lot: Sequence[Sample]) -> list[Verdict]:
        for _ in range(MAX_LOST):
            async with self._free_host(len(lot)) as host:
                try:
                    await self._loaded(host)
                    verdicts, replaced = await asyncio.wait_for(host.actor.score.remote(lot), self._stall_s(host))
                except (*GONE, WorkerError, TimeoutError):
                    self._replace(host)
                    self._statistics.retried += len(lot)
                else:
                    self._statistics.replaced += max(replaced - host.replaced, 0)
                    host.replaced = max(replaced, host.replaced)
                    return verdicts  # type: ignore[no-any-return]
        return [Verdict(Outcome.error, 0.0, f"{MAX_LOST} verifier actors were lost with this answer")] * len(lot)

    @contextlib.asynccontextmanager
    async def _free_host(self, answers: int) -> Any:
        """The least busy actor, once it has room."""
        async with self._room:
            await self._room.wait_for(lambda: self._least_busy().load + answers <= self._limit(self._least_busy()))
            host = self._least_busy()
            host.load += answers
        try:
            yield host
        finally:
            async with self._room:
                host.load -= answers
                self._room.notify_all()

    def _least_busy(self) -> Host:
        return min(self._hosts, key=lambda host: host.load / host.workers)

    def _limit(self, host: Host) -> int:
        return self._config.max_in_flight * host.workers

    def _stall_s(self, host: Host) -> float:
        """When an actor that has not answered is taken for lost: after all its answers could have timed out twice."""
        longest = max(self._config.timeout_s, self._config.code_deadline_s)
        return START_S + 2 * longest * (host.load / host.workers + 1)

    async def _loaded(self, host: Host) -> None:
        """Wait until the actor has loaded: the time an answer may take is for the answer."""
        if host.loading is None:
            host.loading = asyncio.ensure_future(self._load(host))
        await asyncio.shield(host.loading)

    async def _load(self, host: Host) -> None:
        await gather({f"verifier on {host.node}": host.actor.ready.remote()}, phase="loading", timeout_s=START_S)

    def _replace(self, host: Host) -> None:
        """Start another actor in the place of a lost one, once; none on a node that is gone while there are others.

        A node may be gone without Ray's knowing yet. What is started there is lost as well, and by then Ray knows.
        """
        if host not in self._hosts:
            return
        ray.kill(host.actor)
        self._statistics.replaced += 1
        if len(self._hosts) > 1 and host.node not in listed():
            self._hosts.remove(host)
        else:
            self._hosts[self._hosts.index(host)] = self._start(host.node, host.workers)

    def _start(self, node: Node, workers: int) -> Host:
        actor = VerifierActor.options(
            num_cpus=0,
            max_concurrency=1000,
            scheduling_strategy=pinned(node),
            runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
        ).remote(self._scoring, workers=workers)
        return Host(node, workers, actor)
