"""The generator is tuned from time to time: what is tested is what must hold whatever its sizes and odds are."""

import re
from fractions import Fraction
from random import Random

import pytest

from delta.data.arithmetic import ArithmeticConfig, arithmetic_problems, worked_example
from delta.data.held_out import is_reserved
from delta.data.problems import ProblemSet

SMALL = ArithmeticConfig(problems=120, held_out=30)


def generate(seed: int = 0) -> ProblemSet:
    return arithmetic_problems(SMALL, seed=seed)


def lessons(count: int = 400, seed: int = 0) -> list[tuple[str, str]]:
    random = Random(seed)
    return [worked_example(random) for _ in range(count)]


def value_of(expression: str) -> Fraction:
    """Left to right, one operator at a time; the problems have no brackets and do not mix precedences."""
    first, *rest = re.findall(r"\d+|[-+*/]", expression)
    value = Fraction(first)
    for sign, operand in zip(rest[::2], rest[1::2], strict=True):
        if sign in "+-":
            value += Fraction(operand) if sign == "+" else -Fraction(operand)
        else:
            value *= Fraction(operand) if sign == "*" else 1 / Fraction(operand)
    return value


def committed(response: str) -> Fraction:
    return Fraction(response.rsplit("#### ", 1)[1])


def test_answers_are_right() -> None:
    problems = generate()
    for problem in problems.train + problems.held_out:
        assert problem.prompt.endswith("=")
        assert value_of(problem.prompt[:-1]) == Fraction(problem.answer)


def test_as_many_problems_as_asked_for() -> None:
    problems = generate()
    assert (len(problems.train), len(problems.held_out)) == (SMALL.problems, SMALL.held_out)


def test_prompts_and_ids_are_unique_and_the_parts_disjoint() -> None:
    problems = generate()
    everything = problems.train + problems.held_out
    assert len({problem.prompt for problem in everything}) == len(everything)
    assert len({problem.id for problem in everything}) == len(everything)


def test_reserved_problems_are_measured_on_and_no_others() -> None:
    problems = generate()
    assert all(is_reserved(problem.prompt) for problem in problems.held_out)
    assert not any(is_reserved(problem.prompt) for problem in problems.train)


def test_same_seed_gives_the_same_problems() -> None:
    assert generate(3) == generate(3)
    assert generate(3) != generate(4)


@pytest.mark.parametrize(
    "settings", [{"problems": 0}, {"held_out": 0}, {"problems": -1}, {"problems": 10**9}, {"held_out": 10**9}]
)
def test_config_refuses_what_cannot_be_generated(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=rf"data\.{next(iter(settings))}"):
        ArithmeticConfig(**settings)


def test_lessons_are_never_about_reserved_problems() -> None:
    assert not any(is_reserved(prompt) for prompt, _ in lessons(1000))


def test_same_generator_gives_the_same_lessons() -> None:
    assert lessons(20, seed=1) == lessons(20, seed=1)
    assert lessons(20, seed=1) != lessons(20, seed=2)


def test_last_line_commits_to_the_last_step() -> None:
    for prompt, response in lessons():
        *steps, last = response.split("\n")
        assert prompt.endswith("=")
        assert steps
        assert last == f"#### {steps[-1].split('=')[1]}"


def test_steps_take_one_operation_each_and_go_on_from_what_was_written() -> None:
    for prompt, response in lessons():
        operands, operators = re.findall(r"\d+", prompt), re.findall(r"[-+*/]", prompt)
        value = operands[0]
        for step, sign, operand in zip(response.split("\n")[:-1], operators, operands[1:], strict=True):
            asked, written = step.split("=")
            assert asked == f"{value}{sign}{operand}"
            value = written


def test_wrong_steps_are_forgotten_carries() -> None:
    for _, response in lessons():
        for step in response.split("\n")[:-1]:
            asked, written = step.split("=")
            assert abs(value_of(asked) - Fraction(written)) in (0, 10)


def test_lessons_show_right_and_wrong_answers() -> None:
    right = [value_of(prompt[:-1]) == committed(response) for prompt, response in lessons()]
    assert 0 < sum(right) < len(right)


def test_single_operations_are_taught_right() -> None:
    single = [(prompt, response) for prompt, response in lessons() if len(re.findall(r"[-+*/]", prompt)) == 1]
    assert single
    for prompt, response in single:
        assert value_of(prompt[:-1]) == committed(response)


def test_a_talkative_pupil_works_as_the_other_and_adds_words_that_decide_nothing() -> None:
    plain, talkative = Random(5), Random(5)
    for _ in range(200):
        state = talkative.getstate()
        plain.setstate(state)
        prompt, response = worked_example(plain)
        same_prompt, wordy = worked_example(talkative, talkative=True)
        *steps, answer = wordy.split("\n")
        assert same_prompt == prompt
        assert all(re.fullmatch(r"[a-z]+ [-+*/=\d]+[.!;,]", step) for step in steps)
        assert "\n".join([*(step.split(" ")[1][:-1] for step in steps), answer]) == response
