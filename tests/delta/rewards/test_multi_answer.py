"""Several boxed answers in their order."""

import pytest

from delta.rewards.multi_answer import judge
from delta.types import Outcome


@pytest.mark.parametrize(
    ("response", "answers", "outcome", "reward"),
    [
        ("\\boxed{1} and \\boxed{2}", ["1", "2"], "correct", 1.0),
        ("\\boxed{\\frac{2}{4}} and \\boxed{x+1}", ["0.5", "1+x"], "correct", 1.0),
        ("\\boxed{2} and \\boxed{1}", ["1", "2"], "wrong", 0.0),
        ("\\boxed{1} and \\boxed{3}", ["1", "2"], "wrong", 0.5),
        ("\\boxed{1}\\boxed{2}\\boxed{4}\\boxed{5}", ["1", "2", "3", "5"], "wrong", 0.75),
        ("try \\boxed{9}, no: \\boxed{1} and \\boxed{2}", ["1", "2"], "correct", 1.0),
        ("\\boxed{1}", ["1", "2"], "unparsable", 0.0),
        ("1 and 2", ["1", "2"], "unparsable", 0.0),
        ("", ["1"], "unparsable", 0.0),
    ],
)
def test_the_last_boxes_are_compared_in_their_order(response, answers, outcome, reward):
    verdict = judge(response, answers)
    assert (verdict.outcome, verdict.reward) == (Outcome[outcome], reward)


def test_the_detail_says_how_many_are_right():
    assert judge("\\boxed{1}\\boxed{3}", ["1", "2"]).detail == "1 of 2 answers are right"
    assert judge("\\boxed{1}", ["1", "2"]).detail == "1 boxed answers, expected 2"
