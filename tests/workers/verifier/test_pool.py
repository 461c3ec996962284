"""Every answer gets exactly one verdict, whatever happens to the workers."""

import asyncio
import os
import signal

import pytest
import ray

from delta.types import Outcome
from workers.verifier.config import VerifierConfig
from workers.verifier.pool import VerifierPool

pytestmark = pytest.mark.ray


async def with_pool(config: VerifierConfig, use):
    pool = VerifierPool(config)
    try:
        await pool.ready()
        return await use(pool)
    finally:
        pool.close()


@pytest.mark.slow
def test_verdicts_come_in_the_order_of_the_answers(ray_cluster):
    answers = [(f"#### {i % 7}", str(i % 5)) for i in range(50)]
    verdicts = asyncio.run(with_pool(VerifierConfig(num_workers=2), lambda pool: pool.score(answers)))
    assert [verdict.outcome is Outcome.correct for verdict in verdicts] == [i % 7 == i % 5 for i in range(50)]


@pytest.mark.slow
def test_a_worker_killed_in_flight_costs_only_a_retry(ray_cluster):
    answers = [(f"#### \\frac{{{i}}}{{2}}", str(i / 2)) for i in range(1000)]

    async def use(pool: VerifierPool):
        (actor,) = pool.actors
        pid = await actor.pid.remote()
        scoring = asyncio.create_task(pool.score(answers))
        await asyncio.sleep(0.05)
        os.kill(pid, signal.SIGKILL)
        verdicts = await scoring
        (replacement,) = pool.actors
        return verdicts, pid, await replacement.pid.remote()

    verdicts, pid, new_pid = asyncio.run(with_pool(VerifierConfig(num_workers=1, timeout_s=60), use))
    assert [verdict.outcome for verdict in verdicts] == [Outcome.correct] * 1000
    assert new_pid != pid


@pytest.mark.slow
def test_only_the_answer_that_hangs_times_out(ray_cluster):
    # math-verify's own limits are several seconds; the pool's deadline is shorter and ends the worker.
    hostile = ("#### " + "9^{" * 6 + "9" + "}" * 6 + "+x", "7+x")
    answers = [("#### 1", "1"), hostile, ("#### 2", "3")]
    config = VerifierConfig(num_workers=1, timeout_s=0.5)
    verdicts = asyncio.run(with_pool(config, lambda pool: pool.score(answers)))
    assert verdicts[0].outcome is Outcome.correct
    assert verdicts[2].outcome is Outcome.wrong
    assert verdicts[1].outcome in (Outcome.timeout, Outcome.wrong)
    assert ray.is_initialized()
