"""Held-out accuracy and its intervals, against values worked by hand."""

import pytest

from delta.types import Outcome
from tests.factories import make_prompt, make_rollout
from workers.controller.evaluation import mean_interval, summarize, wilson_interval


def test_wilson_interval_is_the_textbook_one():
    # 7 of 10: centre (0.7 + 0.192073) / 1.384146, half-width from the same formula.
    low, high = wilson_interval(7, 10)
    assert low == pytest.approx(0.39677, abs=1e-4)
    assert high == pytest.approx(0.89221, abs=1e-4)
    assert wilson_interval(0, 20)[0] == pytest.approx(0.0, abs=1e-12)
    assert wilson_interval(20, 20)[1] == pytest.approx(1.0, abs=1e-12)


def test_mean_interval_is_over_problems():
    half = 1.96 * (0.08 / 3 / 4) ** 0.5  # sum of squares 0.08, over n - 1, over n
    assert mean_interval([0.3, 0.5, 0.5, 0.7]) == pytest.approx((0.5 - half, 0.5 + half))
    assert mean_interval([0.0, 1.0, 0.0, 1.0]) == (0.0, 1.0)  # cut to what a share can be
    assert mean_interval([0.25]) == (0.25, 0.25)


def test_summary_counts_greedy_sampled_reasoned_and_failures():
    from delta.types import Verdict

    prompts = [make_prompt(), make_prompt()]

    def scored(group, index, text, outcome):
        rollout = make_rollout(group=group, index=index, text=text)
        return rollout, Verdict(outcome, float(outcome is Outcome.correct))

    greedy = [scored(0, 0, "#### 1", Outcome.correct), scored(1, 0, "#### 2", Outcome.wrong)]
    sampled = [
        scored(0, 1, "1+1=2\n#### 2", Outcome.correct),
        scored(0, 2, "#### 2", Outcome.correct),
        scored(1, 1, "1+1=2\n#### 3", Outcome.wrong),
        scored(1, 2, "2", Outcome.timeout),
    ]
    evaluation = summarize(7, prompts, greedy, sampled)
    assert evaluation.step == 7
    assert evaluation.accuracy == 0.5
    assert evaluation.sampled_accuracy == 0.5
    assert evaluation.reasoned_share == 0.5
    assert evaluation.failures == 1
    assert [answer.correct for answer in evaluation.answers] == [True, False]
