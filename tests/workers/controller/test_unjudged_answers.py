"""What the verifier could not judge says nothing about the policy; a timeout counts as wrong only where asked to."""

import asyncio

import pytest

from delta.advantages import group_advantages
from delta.data.arithmetic import ArithmeticConfig
from delta.data.collate import rewards_of
from delta.errors import StallError, WorkerError
from delta.types import Outcome, Verdict
from tests.workers.controller.test_dynamic_sampling import FakeRollouts, prompts
from workers.controller.collection import Collector
from workers.controller.config import FaultsConfig, TrainConfig
from workers.deadlines import DeadlinesConfig
from workers.learner.config import LearnerConfig
from workers.rollout.config import RolloutConfig
from workers.verifier.config import PoolConfig
from workers.warm_start.config import WarmStartModelConfig

DETAILS = {Outcome.timeout: "no verdict within 10 s", Outcome.error: "its worker died, 2 times"}


class FakeVerifier:
    """The answers of every group have the given outcomes, in their order."""

    def __init__(self, outcomes):
        self._outcomes = outcomes

    async def score(self, samples):
        found = [self._outcomes[int(sample.response.split()[1])] for sample in samples]
        return [Verdict(outcome, float(outcome is Outcome.correct), DETAILS.get(outcome, "")) for outcome in found]


def collect(*outcomes: str, **verifier):
    config = TrainConfig(
        model=WarmStartModelConfig(),
        data=ArithmeticConfig(),
        rollout=RolloutConfig(prompts_per_step=2, group_size=len(outcomes), max_refills=0),
        learner=LearnerConfig(updates_per_step=2),
        verifier=PoolConfig(**verifier),
    )
    fake = FakeVerifier([Outcome[outcome] for outcome in outcomes])
    return asyncio.run(Collector(config, prompts(), rollouts=FakeRollouts(), verifier=fake).collect(0, taken=0)).groups


def advantages(groups):
    rows = group_advantages(*rewards_of(groups), normalize_std=False).tolist()
    assert all(row == rows[0] for row in rows)
    return rows[0]


class Idle(FakeRollouts):
    """Engines that have nothing to do any more."""

    def awaited(self):
        return {}


class Silent:
    """Knows the verdict of the first rollout of a group, and thinks for ever about the others."""

    async def score(self, samples):
        for sample in samples:
            if sample.response.split()[1] != "0":
                await asyncio.sleep(3600)
        return [Verdict(Outcome.correct, 1.0)] * len(samples)


def test_a_verifier_that_never_answers_is_a_stall_which_says_what_is_awaited():
    config = TrainConfig(
        model=WarmStartModelConfig(),
        data=ArithmeticConfig(),
        rollout=RolloutConfig(prompts_per_step=2, group_size=2),
        verifier=PoolConfig(),
        faults=FaultsConfig(deadlines=DeadlinesConfig(score_s=0.1)),
    )
    collector = Collector(config, prompts(), rollouts=Idle(), verifier=Silent())
    with pytest.raises(StallError, match=r"^scoring: no answer from verifier within 0\.1 s") as stall:
        asyncio.run(collector.collect(0, taken=0))
    assert stall.value.who == "verifier"
    assert collector.awaited() == {"verifier": [prompt.id for prompt in prompts().take(0, 2)]}


@pytest.mark.parametrize("failure", ["timeout", "error"])
def test_a_failure_is_left_out_of_its_groups_advantages(failure):
    groups = collect("correct", failure, "wrong", failure, max_failure_rate=0.5)
    assert advantages(groups) == [0.5, 0.0, -0.5, 0.0]
    assert not any(verdict.charged for group in groups for verdict in group.verdicts)


def test_a_timeout_counts_as_wrong_where_that_is_asked_for():
    groups = collect("correct", "timeout", "wrong", "wrong", max_failure_rate=0.0, timeout_is_wrong=True)
    assert advantages(groups) == [0.75, -0.25, -0.25, -0.25]
    assert [verdict.charged for verdict in groups[0].verdicts] == [False, True, False, False]
    assert groups[0].verdicts[1].outcome is Outcome.timeout


def test_an_error_never_counts_as_wrong():
    groups = collect("correct", "error", "wrong", max_failure_rate=0.5, timeout_is_wrong=True)
    assert advantages(groups) == [0.5, 0.0, -0.5]


def test_failures_alone_make_no_group_mixed():
    assert not collect("correct", "timeout", max_failure_rate=0.5)[0].is_mixed
    assert collect("correct", "timeout", timeout_is_wrong=True)[0].is_mixed


@pytest.mark.parametrize("failure", ["timeout", "error"])
def test_too_many_failures_stop_the_run_and_say_why(failure):
    message = (
        rf"the verifier could not judge 2 of 8 answers \(for example {failure}: {DETAILS[Outcome[failure]]}\); "
        r"expected at most verifier\.max_failure_rate=0\.2\."
    )
    with pytest.raises(WorkerError, match=message):
        collect("correct", failure, "wrong", "wrong", max_failure_rate=0.2)


def test_failures_up_to_the_limit_are_allowed():
    assert len(collect("correct", "error", "wrong", "wrong", max_failure_rate=0.25)) == 2


def test_timeouts_that_count_as_wrong_are_no_failures():
    assert len(collect("timeout", "timeout", max_failure_rate=0.0, timeout_is_wrong=True)) == 2
    with pytest.raises(WorkerError, match="could not judge 2 of 4"):
        collect("timeout", "error", max_failure_rate=0.0, timeout_is_wrong=True)
