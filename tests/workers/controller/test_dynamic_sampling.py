"""Groups without a signal are replaced by others, within bounds; what is taken is a function of the position alone."""

import asyncio

import numpy as np
import pytest

from delta.data.arithmetic import ArithmeticConfig
from delta.data.sampler import PromptSampler
from delta.types import FinishReason, Outcome, Rollout, Verdict
from tests.factories import make_prompt
from workers.controller.collection import Collector
from workers.controller.config import TrainConfig
from workers.learner.config import LearnerConfig
from workers.rollout.config import RolloutConfig
from workers.verifier.config import PoolConfig
from workers.warm_start.config import WarmStartModelConfig

WANTED = 4


class FakeRollouts:
    """Answers with the prompt's number; remembers what was asked."""

    def __init__(self):
        self.asked = []

    async def generate(self, tasks):
        self.asked.append([(task.group, task.index, task.request.seed) for task in tasks])
        for task in tasks:
            yield [
                Rollout(
                    group=task.group,
                    index=task.index,
                    token_ids=np.array([1, 2], dtype=np.int32),
                    rollout_log_probs=np.array([-0.5, -0.5], dtype=np.float32),
                    text=f"{task.request.prompt_token_ids[0]} {task.index}",
                    finish_reason=FinishReason.stop,
                    policy_version=0,
                    seed=task.request.seed,
                )
            ]


class FakeVerifier:
    """Half of the answers to a prompt of the given numbers are right, all others wrong."""

    def __init__(self, mixed):
        self._mixed = mixed

    async def score(self, samples):
        verdicts = []
        for sample in samples:
            number, index = map(int, sample.response.split())
            right = number in self._mixed and index == 0
            verdicts.append(Verdict(Outcome.correct if right else Outcome.wrong, float(right)))
        return verdicts


def collector(*, mixed, max_refills):
    config = TrainConfig(
        model=WarmStartModelConfig(),
        data=ArithmeticConfig(),
        rollout=RolloutConfig(prompts_per_step=WANTED, group_size=2, max_refills=max_refills),
        learner=LearnerConfig(updates_per_step=2),
        verifier=PoolConfig(),
    )
    return Collector(config, prompts(), rollouts=FakeRollouts(), verifier=FakeVerifier(mixed))


def prompts():
    return PromptSampler([make_prompt([number], id=str(number)) for number in range(50)], seed=1)


def stream(count, first=0):
    """Numbers of the prompts in the order in which they are taken."""
    return [int(prompt.id) for prompt in prompts().take(first, count)]


def numbers(groups):
    return [int(group.prompt.id) for group in groups]


def test_without_refills_every_group_is_trained_on():
    collected = asyncio.run(collector(mixed=set(), max_refills=0).collect(0, taken=0))
    assert numbers(collected.groups) == stream(WANTED)
    assert collected.filtered == []
    assert collected.rounds == 1


def test_groups_without_a_signal_are_replaced_until_there_are_enough():
    order = stream(12)
    mixed = {order[1], order[3], order[4], order[7], order[8]}
    made = collector(mixed=mixed, max_refills=5)
    collected = asyncio.run(made.collect(0, taken=0))
    # 4 prompts hold 2 mixed groups, the next 2 hold 1, the next 1 none, the next 1 the last.
    assert numbers(collected.groups) == [order[1], order[3], order[4], order[7]]
    assert numbers(collected.filtered) == [order[0], order[2], order[5], order[6]]
    assert [len(tasks) for tasks in made._rollouts.asked] == [8, 4, 2, 2]
    assert collected.rounds == 4
    assert sorted(numbers(collected.sampled)) == sorted(order[:8])


def test_the_number_of_rounds_is_bounded_and_what_exists_is_trained_on():
    order = stream(12)
    collected = asyncio.run(collector(mixed={order[2]}, max_refills=2).collect(0, taken=0))
    assert numbers(collected.groups) == [order[2]]
    assert len(collected.filtered) == 3 + 3 + 3
    assert collected.rounds == 3


def test_if_no_group_has_a_signal_the_first_ones_are_trained_on():
    order = stream(12)
    collected = asyncio.run(collector(mixed=set(), max_refills=1).collect(0, taken=0))
    assert numbers(collected.groups) == order[:WANTED]
    assert numbers(collected.filtered) == order[WANTED : 2 * WANTED]


def test_every_rollout_of_a_step_has_its_own_seed_and_a_repeated_step_the_same_ones():
    order = stream(12, first=7)
    first, second = (collector(mixed=set(order[4:8]), max_refills=3) for _ in range(2))
    for made in (first, second):
        asyncio.run(made.collect(3, taken=7))
    asked = [task for tasks in first._rollouts.asked for task in tasks]
    assert first._rollouts.asked == second._rollouts.asked
    assert len({seed for _, _, seed in asked}) == len(asked)
    assert len({(group, index) for group, index, _ in asked}) == len(asked)


@pytest.mark.parametrize("max_refills", [-1])
def test_a_negative_bound_is_refused(max_refills):
    with pytest.raises(ValueError, match=r"rollout.max_refills=-1: expected 0 or more"):
        RolloutConfig(max_refills=max_refills)
