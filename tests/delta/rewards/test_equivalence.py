"""The judge on what models write: a table of right and of wrong answers, each in several renderings."""

import pytest

from delta.rewards.equivalence import equivalent
from delta.rewards.final_answer import check_reference, judge_final_answer
from delta.types import Outcome
from tests.delta.rewards.math_cases import RIGHT, WRONG

RENDERINGS = ["\\boxed{%s}", "so\n#### %s", "\\[\\boxed{ %s }\\]", "\\boxed{%s.}"]


@pytest.mark.parametrize(("given", "answer"), RIGHT)
def test_right_answers_are_correct(given: str, answer: str):
    for rendering in RENDERINGS:
        verdict = judge_final_answer(rendering % given, answer)
        assert verdict.outcome is Outcome.correct, verdict.detail
        assert verdict.reward == 1.0


@pytest.mark.parametrize(("given", "answer"), WRONG)
def test_wrong_answers_and_hedges_are_not(given: str, answer: str):
    for rendering in RENDERINGS:
        verdict = judge_final_answer(rendering % given, answer)
        assert verdict.outcome in (Outcome.wrong, Outcome.unparsable), verdict.detail
        assert verdict.reward == 0.0


@pytest.mark.parametrize(("given", "answer"), RIGHT + WRONG)
def test_shortcuts_change_no_verdict(given: str, answer: str):
    assert equivalent(given, answer) == equivalent(given, answer, shortcuts=False)


@pytest.mark.parametrize("answer", sorted({answer for _, answer in RIGHT}))
def test_references_can_be_judged_and_equal_themselves(answer: str):
    assert check_reference(answer) is None
    assert equivalent(answer, answer, shortcuts=False)


@pytest.mark.parametrize("answer", ["", "   ", "\\frac{1}{", "?!", "4\uff12"])
def test_references_that_cannot_be_judged_are_told(answer: str):
    message = check_reference(answer)
    assert message is not None
    assert message.endswith(".")


def test_last_of_two_boxes_counts():
    assert judge_final_answer("\\boxed{1} or \\boxed{2}", "2").outcome is Outcome.correct
    assert judge_final_answer("\\boxed{1} or \\boxed{2}", "1").outcome is Outcome.wrong


@pytest.mark.parametrize(
    ("given", "answer", "correct"),
    [
        ("\\frac{1}{2}", "\\int_0^1 x dx", True),
        ("\\frac{1}{3}", "\\int_0^1 x dx", False),
        ("\\sum_{k=1}^{3} k", "\\sum_{k=1}^{3} k", True),
        ("9^{9^{9^{9}}}", "\\int_0^1 x dx", False),
    ],
)
def test_references_beyond_our_reading_go_to_math_verify(given: str, answer: str, correct: bool):
    assert check_reference(answer) is None
    assert equivalent(given, answer) is correct
