"""Alarms ring when a run goes on but teaches nothing, and only then: equal rewards, gradients that are not finite."""

import pytest

from delta.errors import GradientError
from delta.types import Outcome, RolloutGroup
from tests.factories import make_group
from workers.controller.alarms import MAX_LOST_STEPS, ConstantRewardAlarm, GradientAlarm


def steps(alarm: ConstantRewardAlarm, *steps: tuple[float, ...]) -> list[bool]:
    return [alarm.observe([make_group(rewards)]) is not None for rewards in steps]


def unjudged() -> RolloutGroup:
    return make_group((0.0, 0.0), outcomes=[Outcome.timeout, Outcome.error])


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.25])
def test_it_rings_once_for_a_stretch_of_equal_rewards(reward):
    alarm = ConstantRewardAlarm(steps=3)
    assert steps(alarm, *[(reward, reward)] * 6) == [False, False, True, False, False, False]


def test_it_says_the_reward_and_where_to_look():
    alarm = ConstantRewardAlarm(steps=2)
    alarm.observe([make_group((0.5, 0.5))])
    message = alarm.observe([make_group((0.5,)), make_group((0.5, 0.5), group=1)])
    assert message is not None
    assert "every answer of the last 2 steps had the reward 0.5" in message
    assert "evaluations.jsonl" in message
    assert "delta-verify" in message


def test_a_step_with_two_rewards_starts_the_count_anew():
    alarm = ConstantRewardAlarm(steps=2)
    assert steps(alarm, (0, 0), (0, 1), (0, 0), (0, 0), (1, 0), (0, 0), (0, 0)) == [False] * 3 + [True] + [
        False
    ] * 2 + [True]


def test_another_constant_reward_starts_the_count_at_one():
    assert steps(ConstantRewardAlarm(steps=2), (0, 0), (1, 1), (0, 0), (0, 0)) == [False, False, False, True]


def test_groups_that_differ_among_each_other_are_no_constant_reward():
    alarm = ConstantRewardAlarm(steps=1)
    assert alarm.observe([make_group((0.0, 0.0)), make_group((1.0, 1.0), group=1)]) is None


def test_one_step_may_be_enough():
    assert steps(ConstantRewardAlarm(steps=1), (0, 0), (0, 0), (1, 1)) == [True, False, True]


def test_answers_that_were_not_judged_do_not_count():
    alarm = ConstantRewardAlarm(steps=2)
    assert alarm.observe([make_group((1.0, 1.0))]) is None
    assert alarm.observe([unjudged()]) is None
    assert alarm.observe([make_group((1.0, 0.0), outcomes=[Outcome.correct, Outcome.timeout]), unjudged()]) is not None
    assert alarm.observe([unjudged()]) is None


def look(alarm: GradientAlarm, *, made: int, skipped: int, step: int = 7) -> str | None:
    return alarm.observe({"learner/updates": float(made), "learner/skipped_updates": float(skipped)}, step=step)


def test_finite_gradients_are_nothing_to_talk_about():
    alarm = GradientAlarm()
    assert [look(alarm, made=2, skipped=0) for _ in range(2 * MAX_LOST_STEPS)] == [None] * 2 * MAX_LOST_STEPS


def test_an_optimizer_step_that_was_left_out_is_told_and_the_run_goes_on():
    alarm = GradientAlarm()
    for _ in range(2 * MAX_LOST_STEPS):
        message = look(alarm, made=1, skipped=1)
        assert message is not None
        assert "step 7: 1 of 2 optimizer steps were left out" in message


def test_steps_that_train_nothing_one_after_the_other_end_the_run():
    alarm = GradientAlarm()
    for made, skipped in [(0, 2)] * (MAX_LOST_STEPS - 1) + [(2, 0)] + [(0, 2)] * (MAX_LOST_STEPS - 1):
        assert (look(alarm, made=made, skipped=skipped) is None) == (skipped == 0)
    with pytest.raises(GradientError, match=r"step 12: 2 of 2 optimizer steps .* the 2 steps before trained nothing"):
        look(alarm, made=0, skipped=2, step=12)
