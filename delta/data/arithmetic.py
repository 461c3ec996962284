"""Sums with worked steps: the problems of the laptop run, and the lessons its model is taught beforehand.

A problem is `47+38+12=`; a worked answer takes one operation per line and commits in GSM8K's way:

    47+38=85
    85+12=97
    #### 97

The lessons are those of a careless pupil, who knows the form but forgets every other carry: the warm-started model
reasons in steps from the beginning and is often wrong, so what reinforcement learning adds is right reasoning, not the
habit of reasoning. A share of the lessons are plain expressions of the sizes found in school problems, always right.
"""

from dataclasses import dataclass
from random import Random

from delta.data.held_out import is_reserved
from delta.data.problems import Overlong, Problem, ProblemSet
from delta.rewards.final_answer import MARKER

Lesson = tuple[str, str]
"""A prompt and the worked response to it."""

LOWEST, HIGHEST = 10, 49
"""Range of the three summands of a problem: 64,000 different problems."""

FORGETS_CARRY = 0.5
"""Chance that the pupil forgets a carry."""

EXPRESSION_SHARE = 0.4
"""Lessons that are plain expressions."""


WORDS, MARKS = ("so", "now", "then", "next", "here", "hence", "thus", "well"), ".!;,"
"""What a talkative pupil puts before and behind a step."""


@dataclass(kw_only=True, slots=True)
class ArithmeticConfig:
    """Generated sums of three two-digit numbers (`data=arithmetic`)."""

    problems: int = 8000
    """Different problems to train on."""
    held_out: int = 400
    """Different problems to measure on."""
    overlong: Overlong = Overlong.error
    """What to do with prompts that do not fit the context; every source has the choice, here they always fit."""

    def __post_init__(self) -> None:
        """Check the ranges: of the 64,000 sums about 6,400 are reserved, and drawing the last ones would take long."""
        if not 1 <= self.problems <= 50_000 or not 1 <= self.held_out <= 3_000:
            raise ValueError(
                f"data.problems={self.problems}, data.held_out={self.held_out}: expected 1 to 50,000 and 1 to 3,000 "
                "of the 64,000 different sums."
            )


def arithmetic_problems(config: ArithmeticConfig, *, seed: int) -> ProblemSet:
    """Draw different problems: reserved ones to measure on, others to train on."""
    random = Random(f"problems {seed}")
    train: dict[str, Problem] = {}
    held_out: dict[str, Problem] = {}
    while len(train) < config.problems or len(held_out) < config.held_out:
        summands = _summands(random)
        prompt = _sum_prompt(summands)
        part, wanted = (held_out, config.held_out) if is_reserved(prompt) else (train, config.problems)
        if len(part) < wanted:
            part.setdefault(prompt, Problem(prompt, prompt, str(sum(summands))))
    return ProblemSet(train=tuple(train.values()), held_out=tuple(held_out.values()))


def worked_example(random: Random, *, talkative: bool = False) -> Lesson:
    """Draw one lesson; never about a reserved problem.

    A talkative pupil's steps begin with a word and end with a mark, both drawn from a few that mean the same:

        so 47+38=85.
        next 85+12=97!
        #### 97

    These are tokens on which the policy is undecided and nothing depends, in right and wrong answers alike.
    """
    while True:
        draw = _expression_lesson if random.random() < EXPRESSION_SHARE else _careless_lesson
        prompt, response = draw(random)
        if not is_reserved(prompt):
            return prompt, _talk(random, response) if talkative else response


def _talk(random: Random, response: str) -> str:
    *steps, answer = response.split("\n")
    return "\n".join([*(f"{random.choice(WORDS)} {step}{random.choice(MARKS)}" for step in steps), answer])


def _summands(random: Random) -> list[int]:
    return [random.randint(LOWEST, HIGHEST) for _ in range(3)]


def _sum_prompt(summands: list[int]) -> str:
    return "+".join(map(str, summands)) + "="


def _careless_lesson(random: Random) -> Lesson:
    """A sum in which carries are forgotten; later steps go on from what was written."""
    summands = _summands(random)
    value = summands[0]
    lines = []
    for summand in summands[1:]:
        result = value + summand
        if value % 10 + summand % 10 >= 10 and random.random() < FORGETS_CARRY:
            result -= 10
        lines.append(f"{value}+{summand}={result}")
        value = result
    return _sum_prompt(summands), _response(lines, value)


def _expression_lesson(random: Random) -> Lesson:
    """An expression shaped like those in school problems, worked out right."""
    (kind,) = random.choices("+-*/c", (27, 26, 24, 16, 7))
    if kind == "c":
        return _chain_lesson(random)
    if kind == "+":
        first, second = _number(random, (1, 5, 3, 1)), _number(random, (2, 5, 3, 0.5))
        result = first + second
    elif kind == "-":
        second, first = sorted((_number(random, (1, 5, 4, 1)), _number(random, (2, 5, 3, 0.5))))
        result = first - second
    elif kind == "*":
        first, second = _number(random, (3, 5, 2.5, 0.5)), _number(random, (6, 2, 0, 0))
        if second > 12 and second % 5:
            second = random.choice((2, 3, 4, 5, 6, 10, 12, 20))
        result = first * second
        if random.random() < 0.5:
            first, second = second, first
    else:
        (second,) = random.choices(*zip(*_DIVISORS.items(), strict=True))
        result = _number(random, (3, 6, 2, 0.3))
        first = second * result
    expression = f"{first}{kind}{second}="
    return expression, _response([f"{expression}{result}"], result)


_DIVISORS = {2: 8, 3: 4, 4: 4, 5: 4, 6: 2, 7: 1, 8: 1, 9: 1, 10: 4, 12: 2, 20: 2, 50: 1, 60: 1, 100: 2}
"""Divisors and how often each occurs."""


def _chain_lesson(random: Random) -> Lesson:
    """Three numbers added, or two subtracted from a third."""
    first, second, third = (_number(random, (3, 6, 1, 0)) for _ in range(3))
    sign = 1 if random.random() < 0.8 else -1
    if sign < 0:
        first += second + third
    mark = "+" if sign > 0 else "-"
    middle, result = first + sign * second, first + sign * (second + third)
    lines = [f"{first}{mark}{second}={middle}", f"{middle}{mark}{third}={result}"]
    return f"{first}{mark}{second}{mark}{third}=", _response(lines, result)


def _number(random: Random, odds: tuple[float, float, float, float]) -> int:
    """A number of one to four digits with the given odds; the longer, the rounder."""
    (digits,) = random.choices((1, 2, 3, 4), odds)
    number = random.randint(10 ** (digits - 1), 10**digits - 1)
    unit = 1
    if digits == 2 and random.random() < 0.4:
        unit = 10 if random.random() < 0.6 else 5
    elif digits == 3:
        unit = random.choices((10, 100, 1), (2, 1, 1))[0]
    elif digits == 4:
        unit = 100 if random.random() < 0.6 else 1000
    return number // unit * unit


def _response(lines: list[str], answer: int) -> str:
    return "\n".join([*lines, f"{MARKER} {answer}"])
