"""Every answer gets exactly one verdict, whatever happens to the workers and to the actors that hold them."""

import asyncio
import os
import signal

import pytest

from delta.errors import ConfigError
from delta.rewards import PartConfig, RewardConfig
from delta.types import Outcome, Sample
from tests.workers.verifier import judges
from tests.workers.verifier.leftovers import alive, below, none_left
from workers.cluster.nodes import Node, listed
from workers.verifier.config import PoolConfig
from workers.verifier.pool import VerifierPool

pytestmark = pytest.mark.ray


def use_pool(use, *, reward: RewardConfig | None = None, nodes=(), **config):
    """What `use` returns, with a pool that is closed afterwards."""

    async def run():
        settings = PoolConfig(**({"num_workers": 2, "timeout_s": 60.0} | config))
        pool = VerifierPool(settings, reward or RewardConfig(), nodes=nodes)
        try:
            return await use(pool)
        finally:
            pool.close()

    return asyncio.run(run())


def outcomes(verdicts):
    return [verdict.outcome for verdict in verdicts]


def naps(count: int) -> list[Sample]:
    """Answers that differ and take some milliseconds each."""
    return [judges.of("sleeps", "0.005", answer=str(index)) for index in range(count)]


async def pids(pool) -> list[int]:
    (actor,) = pool.actors
    return await actor.pids.remote()


def test_verdicts_come_in_the_order_of_the_answers(ray_cluster):
    samples = [
        judges.of("echo", str(index / 100)) if index % 2 else Sample(f"#### {index % 7}", str(index % 5))
        for index in range(100)
    ]
    verdicts = use_pool(lambda pool: pool.score(samples))
    expected = [index / 100 if index % 2 else float(index % 7 == index % 5) for index in range(100)]
    assert [verdict.reward for verdict in verdicts] == expected


@pytest.mark.parametrize("victim", ["worker", "actor"])
def test_what_is_killed_in_flight_costs_only_a_retry(ray_cluster, victim):
    samples = naps(400)

    async def use(pool: VerifierPool):
        await pool.ready()
        lots = [asyncio.create_task(pool.score(samples[first : first + 50])) for first in range(0, 400, 50)]
        await asyncio.wait(lots, return_when=asyncio.FIRST_COMPLETED)
        actor, *workers = await pids(pool)
        os.kill(actor if victim == "actor" else workers[0], signal.SIGKILL)
        verdicts = [verdict for lot in await asyncio.gather(*lots) for verdict in lot]
        return verdicts, pool.take_statistics(), actor, (await pids(pool))[0]

    verdicts, statistics, before, after = use_pool(use)
    assert outcomes(verdicts) == [Outcome.correct] * 400
    assert statistics.replaced >= 1
    assert (before != after) == (victim == "actor")
    assert (statistics.retried > 0) == (victim == "actor")


def test_a_lost_node_is_done_without(ray_cluster):
    gone = Node(node_id="ab" * 28, address="10.0.0.9", name="gone", is_head=False, cpus=2.0, gpus=0.0)

    async def use(pool: VerifierPool):
        verdicts = await pool.score(naps(40))
        return verdicts, len(pool.actors), pool.take_statistics()

    verdicts, actors, statistics = use_pool(use, nodes=[*listed(), gone])
    assert outcomes(verdicts) == [Outcome.correct] * 40
    assert actors == 1
    assert statistics.retried > 0


def test_an_answer_that_hangs_and_one_that_kills_cost_the_others_nothing(ray_cluster):
    samples = [*naps(20), judges.of("spins_in_c"), judges.of("dies"), *naps(20)]
    verdicts = use_pool(lambda pool: pool.score(samples), timeout_s=2.0)
    assert outcomes(verdicts) == [Outcome.correct] * 20 + [Outcome.timeout, Outcome.error] + [Outcome.correct] * 20


def test_equal_answers_are_scored_once(ray_cluster):
    async def use(pool: VerifierPool):
        first = await pool.score([*naps(5), *naps(5)])
        again, more = await asyncio.gather(pool.score(naps(5)), pool.score(naps(6)))
        return [*first, *again, *more], pool.take_statistics().cached, pool.take_statistics().cached

    verdicts, cached, since = use_pool(use)
    assert outcomes(verdicts) == [Outcome.correct] * 21
    assert (cached, since) == (15, 0)


def test_failures_are_not_remembered(ray_cluster):
    async def use(pool: VerifierPool):
        first = await pool.score([judges.of("raises"), judges.of("raises")])
        again = await pool.score([judges.of("raises")])
        return [*first, *again], pool.take_statistics().cached

    verdicts, cached = use_pool(use)
    assert outcomes(verdicts) == [Outcome.error] * 3
    assert cached == 1  # the one that waited for its equal


@pytest.mark.parametrize(("workers", "max_in_flight"), [(2, 3), (1, 1), (1, 20)])
def test_no_actor_is_sent_more_than_the_limit(ray_cluster, workers, max_in_flight):
    loads = []

    async def watch(host):
        while True:
            loads.append(host.load)
            await asyncio.sleep(0.001)

    async def use(pool: VerifierPool):
        (host,) = pool._hosts
        watching = asyncio.create_task(watch(host))
        lots = await asyncio.gather(*(pool.score(naps(60)[first : first + 12]) for first in range(0, 60, 12)))
        watching.cancel()
        return [verdict for lot in lots for verdict in lot]

    verdicts = use_pool(use, num_workers=workers, max_in_flight=max_in_flight)
    assert outcomes(verdicts) == [Outcome.correct] * 60
    limit = workers * max_in_flight
    assert limit - min(max_in_flight, 16) < max(loads) <= limit


def test_a_reward_that_is_not_there_is_reported_before_anything_is_scored(ray_cluster):
    reward = RewardConfig(parts={"style": PartConfig(function="no_such_module.style")})
    with pytest.raises(ConfigError, match=r"reward\.parts\.style: .*no_such_module cannot be imported"):
        use_pool(lambda pool: pool.ready(), reward=reward)


@pytest.mark.parametrize("killed", [False, True])
def test_nothing_is_left_behind(ray_cluster, killed):
    samples = [judges.of(judge) for judge in ("forks", "forks_and_dies", "raises")]

    async def use(pool: VerifierPool):
        await pool.score(samples)
        hanging = asyncio.create_task(pool.score([judges.of("forks_and_hangs", "0"), judges.of("spins_in_c")]))
        while len(await pids(pool)) < 3:
            await asyncio.sleep(0.01)
        (actor, *_) = await pids(pool)
        processes = below(actor)
        if killed:
            os.kill(actor, signal.SIGKILL)
        hanging.cancel()
        return processes

    processes = use_pool(use)
    assert len(processes) >= 3
    assert none_left(lambda: alive(processes))
