"""Weights reach the live engine: log-probabilities agree after a sync, and would not without it."""

import asyncio

import numpy as np
import pytest
import ray

from delta.advantages import GroupAdvantageConfig
from delta.aggregations import TokenMeanConfig
from delta.credit import UniformConfig
from delta.surrogates import ClippedConfig
from workers.deadlines import DeadlinesConfig
from workers.learner.config import LearnerConfig
from workers.learner.group import LearnerGroup
from workers.learner.learner import AlgorithmConfig
from workers.rollout.config import RolloutConfig
from workers.rollout.pool import RolloutPool

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PROBE = [1 + 7 * i % 250 for i in range(48)]
LIMIT = 1e-4


async def differences(
    engine_model, learner_model, *, num_workers: int, temperature: float
) -> tuple[list[float], list[float]]:
    """Largest difference to the learner for each engine, before and after a sync."""
    rollouts = RolloutPool(
        str(engine_model),
        RolloutConfig(max_model_len=512, num_workers=num_workers, threads_per_worker=1),
        dtype="float32",
        seed=0,
        deadlines=DeadlinesConfig(),
    )
    learners = LearnerGroup(LearnerConfig(), deadlines=DeadlinesConfig())
    try:
        await asyncio.gather(
            learners.set_up(
                str(learner_model),
                AlgorithmConfig(
                    advantage=GroupAdvantageConfig(),
                    credit=UniformConfig(),
                    surrogate=ClippedConfig(),
                    aggregation=TokenMeanConfig(),
                ),
                dtype="float32",
                temperature=temperature,
                mismatch_limit=1e-3,
            ),
            rollouts.ready(),
        )
        await learners.connect(rollouts.actors)
        expected = await learners.log_probs(PROBE)
        before = [float(np.abs(found - expected).max()) for _, found in await rollouts.log_probs(PROBE)]
        await learners.publish(7)
        answers = await rollouts.log_probs(PROBE)
        assert [version for version, _ in answers] == [7] * num_workers
        after = [float(np.abs(found - expected).max()) for _, found in answers]
        # Once more: the second sync starts from weights that were themselves loaded by a sync.
        await learners.publish(8)
        again = [float(np.abs(found - expected).max()) for _, found in await rollouts.log_probs(PROBE)]
        return before, [*after, *again]
    finally:
        for actor in [*rollouts.actors, *learners.actors]:
            ray.kill(actor)


@pytest.mark.parametrize(
    ("tied", "num_workers", "temperature"), [(True, 2, 1.0), (False, 1, 0.7)], ids=["tied-two-engines", "untied-cool"]
)
def test_engine_has_the_learners_policy_after_a_sync_and_not_before(
    ray_cluster, make_model, tied, num_workers, temperature
):
    """Whatever the temperature of sampling: no engine applies it to the tokens of a probe."""
    engine_model = make_model(tie_embeddings=tied, seed=0)
    learner_model = make_model(tie_embeddings=tied, seed=1)
    before, after = asyncio.run(
        differences(engine_model, learner_model, num_workers=num_workers, temperature=temperature)
    )
    assert min(before) > 100 * LIMIT
    assert max(after) < LIMIT
