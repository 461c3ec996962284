import pytest

from delta.rewards import extract_final_answer, judge_final_answer
from delta.types import Outcome


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("2+2=4\n#### 4", "4"),
        ("####4", "4"),
        ("####   4  \nand more", "4"),
        ("#### 3\nno, wait\n#### 4", "4"),
        ("so \\boxed{4}.", "4"),
        ("\\boxed{3} or \\boxed{4}", "4"),
        ("\\boxed{3}\n#### 4", "4"),
        ("#### 3\n\\boxed{4}", "4"),
        ("#### \\boxed{4}", "4"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{ \\{1, \\{2\\}\\} } }", "\\{1, \\{2\\}\\}"),
        ("\\boxed{\\boxed{4}}", "4"),
        ("#### 1,234.50 dollars", "1,234.50 dollars"),
    ],
)
def test_last_mark_gives_the_answer(response: str, answer: str) -> None:
    assert extract_final_answer(response) == answer


@pytest.mark.parametrize(
    "response",
    [
        "",
        "4",
        "the answer is 4",
        "### 4",
        "####",
        "####   \n  ",
        "\\boxed{4",
        "\\boxed{\\frac{1}{2}",
        "\\boxed{}",
        "\\boxed{  }",
        "boxed{4}",
        "\\boxed 4",
        "\\boxed{3} then \\boxed{4",
        "#### 3\n\\boxed{4",
    ],
)
def test_response_without_a_mark_has_no_answer_where_one_is_required(response: str) -> None:
    assert extract_final_answer(response, require_mark=True) is None
    verdict = judge_final_answer(response, "4", require_mark=True)
    assert (verdict.outcome, verdict.reward) == (Outcome.unparsable, 0.0)


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ("42", "42"),
        (" 42 ", "42"),
        ("042", "42"),
        ("+42", "42"),
        ("-42", "-42"),
        ("42.0", "42"),
        (".5", "0.50"),
        ("1,234", "1234"),
        ("1234", "1,234"),
        ("1,234,567.25", "1234567.250"),
        ("$42$", "42"),
        ("apples", "apples"),
        ("0.1000000000000000000000000001", "0.10000000000000000000000000010"),
    ],
)
def test_same_text_or_number_is_correct(given: str, answer: str) -> None:
    verdict = judge_final_answer(f"#### {given}", answer)
    assert (verdict.outcome, verdict.reward) == (Outcome.correct, 1.0)


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ("43", "42"),
        ("-42", "42"),
        ("42.1", "42"),
        ("1.234", "1,234"),
        ("0.3333", "1/3"),
        # Exact, where float64 would call them equal:
        ("0.1000000000000000000000000001", "0.1"),
        ("9007199254740993", "9007199254740992"),
    ],
)
def test_another_number_is_wrong(given: str, answer: str) -> None:
    verdict = judge_final_answer(f"#### {given}", answer)
    assert (verdict.outcome, verdict.reward) == (Outcome.wrong, 0.0)


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ("\\frac{1}{2}", "0.5"),
        ("\\frac{1}{2}", "1/2"),
        ("\\dfrac{2}{4}", "$\\frac{1}{2}$"),
        ("\\frac12", "\\frac{1}{2}"),
        ("1+x", "x+1"),
        ("\\sqrt{4}", "2"),
        ("(1,2)", "(1, 2)"),
    ],
)
def test_same_mathematics_is_correct(given: str, answer: str) -> None:
    assert judge_final_answer(f"\\boxed{{{given}}}", answer).outcome is Outcome.correct


@pytest.mark.parametrize(
    ("given", "answer"),
    [("\\frac{1}{3}", "\\frac{1}{2}"), ("x+2", "x+1"), ("apples", "4"), ("$", "4"), ("4", "apples")],
)
def test_other_mathematics_is_wrong(given: str, answer: str) -> None:
    assert judge_final_answer(f"\\boxed{{{given}}}", answer).outcome is Outcome.wrong


def test_detail_says_what_was_given_and_expected_in_few_words() -> None:
    verdict = judge_final_answer("#### 41", "42")
    assert "'41'" in verdict.detail
    assert "'42'" in verdict.detail
    assert len(judge_final_answer("#### " + "7" * 5000, "8" * 5000).detail) < 300
    assert "no final answer" in judge_final_answer("I give up", "42").detail


@pytest.mark.parametrize("given", ["9" * 60_000, "0." + "9" * 5_000, "-" * 60 + "9" * 60, "1," * 31 + "1"])
def test_hostile_digits_are_judged_wrong(given: str) -> None:
    # Also where a number is too long to be a number for Python, which refuses 4300 digits.
    assert judge_final_answer(f"#### {given}", "42").outcome is Outcome.wrong


def test_many_hostile_marks_are_read_in_one_pass() -> None:
    assert extract_final_answer("\\boxed{" * 100_000) is None
    assert extract_final_answer("#### 1\n" * 100_000) == "1"
    assert extract_final_answer("\\boxed{" + "{" * 100_000 + "}" * 100_000) is None


@pytest.mark.parametrize("given", ["__import__('os').system('true')", "(lambda: 42)()", "exec('x=42')"])
def test_answers_are_not_run_as_code(given: str) -> None:
    assert judge_final_answer(f"#### {given}", "43").outcome is Outcome.wrong
