"""Where responses say what their answer is, with and without a mark."""

import pytest

from delta.rewards.final_answer import extract_final_answer, judge_final_answer
from delta.types import Outcome

CASES = [
    ("The answer is 42.", "42"),
    ("Final answer: $\\frac12$", "\\frac12"),
    ("**Answer:** 5", "5"),
    ("#### 42", "42"),
    ("The answer is 5 apples.", "5 apples"),
    ("the answer is 4", "4"),
    ("4", "4"),
    ("So the total is 5 + 6 = 11 apples.", "11"),
    ("She makes $18 every day.", "$18"),
    ("Therefore, x = 5.", "5"),
    ("Thus $x = 5$.", "5"),
    ("**Final Answer**\n\n$$\\frac{3}{4}$$", "\\frac{3}{4}"),
    ("### Final Answer\n42", "42"),
    ("**Final Answer: 42**", "42"),
    ("Final Answer: The final answer is $42$. I hope it is correct.", "42"),
    ("The final answer is 42. I hope it is correct.", "42"),
    ("The answer is 42 because 6*7=42.", "42"),
    ("The answer is $1$ or $2$.", "1  or  2"),
    ("The answer is\n\n\\[ 42 \\]", "42"),
    ("The answer is: **42**", "42"),
    ("Answer: \\(x = 3\\)", "x = 3"),
    ("The answer is therefore 42.", "42"),
    ("I give up", None),
    ("", None),
    ("Hmm.", None),
    ("We get 3 and 4 or so", None),
    ("$a=2$ and $b=3$", None),
    ("42 apples", "42"),
    ("= 42", "42"),
    ("Answer: C", "C"),
    ("The answer is (C) 12.", "(C) 12"),
    ("The correct answer is (B).", "(B)"),
    ("Answer: Evelyn", "Evelyn"),
    ("The answer is Evelyn.", "Evelyn"),
    ("y = 2x + 1", "y = 2x + 1"),
    ("Hence $y = 2x+1$", "y = 2x+1"),
    ("$5x - 7y + 11z + 4 = 0$", "5x - 7y + 11z + 4 = 0"),
    ("Hence $3+4 = 7$", "7"),
    ("#### Final Answer\nThe answer is 7.", "7"),
    ("#### Step 3: compute\nThe answer is 7.", "7"),
    ("\\boxed{3}\n#### Final Answer\nsee above", "3"),
    ("\\boxed {4}", "4"),
    ("\\fbox{4}", "4"),
    ("$\\boxed{\\frac{1}{2}}$", "\\frac{1}{2}"),
    ("1/2", "1/2"),
    ("(3, 4)", "(3, 4)"),
    ("x^2 + 1", "x^2 + 1"),
    ("the answer is 2 (or 3)", "2 (or 3)"),
    ("Answer: 3.5", "3.5"),
    ("The answer is 3.5. Done.", "3.5"),
    ("The answer is $3.50.", "$3.50"),
    ("Answer = 12", "12"),
    ("The final answer is: $\\boxed{5}$", "5"),
    ("The final answer is \\( \\frac{1}{2} \\).", "\\frac{1}{2}"),
    ("So the answer is 12 cm.", "12 cm"),
    ("The answer is 10:30 a.m.", "10:30 a.m"),
    ("the answer is not 42", "not 42"),
    ("Answer: 1,234", "1,234"),
    ("The answers are 1 and 2.", "1 and 2"),
    ("\\[\nx = 7\n\\]", "x = 7"),
    ("It costs 5 dollars.", "5"),
    ("The probability is 3/4.", "3/4"),
    ("The result is 25%.", "25%"),
    ("= -3", "-3"),
    ("The temperature is -3 degrees.", "-3"),
    ("The answer is \\boxed{}.", None),
    ("\\boxed{4", None),
    ("Answer:", None),
    ("Answer: ", None),
    ("The answer is $\\text{(C)}$", "\\text{(C)}"),
    ("$\\text{Evelyn}$", "\\text{Evelyn}"),
    ("The answer is **$\\frac{3}{4}$**.", "\\frac{3}{4}"),
    ("The answer is $x=3$ and $y=4$, so the sum is 7.", "x=3  and  y=4 , so the sum is 7"),
    ("Answer: 5\n\nLet me know if you need more help with 2 things!", "5"),
    ("**42**", "42"),
    ("- 42", "42"),
    ("* Total: 42", "42"),
    ("Total = $42", "$42"),
    ("<answer>42</answer>", "42"),
]


@pytest.mark.parametrize(("response", "answer"), CASES)
def test_answer_is_found_where_a_reader_finds_it(response: str, answer: str | None):
    assert extract_final_answer(response) == answer


@pytest.mark.parametrize(
    "response", [response for response, _ in CASES if "box" not in response and "####" not in response]
)
def test_prose_commits_to_nothing_where_a_mark_is_required(response: str):
    assert extract_final_answer(response, require_mark=True) is None
    assert judge_final_answer(response, "42", require_mark=True).outcome is Outcome.unparsable


@pytest.mark.parametrize(
    "response", ["The answer is $1$ or $2$.", "The answer is 2 (or 3).", "The answers are 1 and 2."]
)
def test_hedged_prose_is_wrong(response: str):
    for answer in "123":
        assert judge_final_answer(response, answer).outcome is Outcome.wrong


def test_an_empty_or_open_last_box_takes_back_what_was_said_before():
    assert extract_final_answer("The answer is 4. \\boxed{}") is None
    assert extract_final_answer("\\boxed{4} and then \\boxed{5") is None
