"""Arithmetic with worked steps: the problems of the laptop run, and the lessons its model is taught beforehand.

A problem is a chain such as `47+38-12=`; a worked answer takes one operation per line and commits in GSM8K's way:

    47+38=85
    85-12=73
    #### 73

The lessons are those of a careless pupil, who knows the form but often forgets to carry: the warm-started model reasons
in steps from the beginning and is often wrong, so that what reinforcement learning adds is right reasoning. A share of
the lessons are plain expressions with the sizes and operators found in school problems, always right.
"""

from dataclasses import dataclass

import numpy as np

from delta.data.held_out import is_reserved
from delta.data.problems import Overlong, Problem, ProblemSet
from delta.rewards.final_answer import MARKER


@dataclass(kw_only=True, slots=True)
class ArithmeticConfig:
    """Generated chains of additions and subtractions (`data=arithmetic`)."""

    problems: int = 8000
    """Different problems to train on."""
    held_out: int = 400
    """Different problems to measure on."""
    overlong: Overlong = Overlong.error
    """Never happens here; every source has the choice."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.problems < 1 or self.held_out < 1:
            raise ValueError(
                f"data.problems={self.problems}, data.held_out={self.held_out}: expected 1 or more of each."
            )


@dataclass(frozen=True, slots=True)
class Chain:
    """`operands[0] operators[0] operands[1] ...`, computed from left to right."""

    operands: tuple[int, ...]
    operators: str

    @property
    def prompt(self) -> str:
        """As the policy reads it."""
        rest = "".join(f"{sign}{value}" for sign, value in zip(self.operators, self.operands[1:], strict=True))
        return f"{self.operands[0]}{rest}="

    @property
    def answer(self) -> int:
        """The true value."""
        value = self.operands[0]
        for sign, operand in zip(self.operators, self.operands[1:], strict=True):
            value = value + operand if sign == "+" else value - operand
        return value


def draw_chain(generator: np.random.Generator) -> Chain:
    """Three two-digit numbers, added or subtracted; no intermediate result is negative."""
    while True:
        first, second, third = (int(value) for value in generator.integers(10, 100, size=3))
        operators = "".join(generator.choice(["+", "-"], size=2))
        partial = Chain((first, second), operators[0]).answer
        chain = Chain((first, second, third), operators)
        if partial >= 0 and chain.answer >= 0:
            return chain


def arithmetic_problems(config: ArithmeticConfig, *, seed: int) -> ProblemSet:
    """Draw different problems: reserved ones to measure on, others to train on."""
    generator = np.random.default_rng([seed, 0])
    parts: dict[bool, dict[str, Problem]] = {True: {}, False: {}}
    wanted = {True: config.held_out, False: config.problems}
    while any(len(part) < wanted[reserved] for reserved, part in parts.items()):
        chain = draw_chain(generator)
        part = parts[is_reserved(chain.prompt)]
        if len(part) < wanted[is_reserved(chain.prompt)]:
            part.setdefault(chain.prompt, Problem(chain.prompt, chain.prompt, str(chain.answer)))
    return ProblemSet(train=tuple(parts[False].values()), held_out=tuple(parts[True].values()))


EXPRESSION_SHARE = 0.25
"""Lessons that are plain expressions."""

FORGETS_CARRY = 0.6
"""Chance that a pupil who has to carry or borrow does not."""


def worked_example(generator: np.random.Generator) -> tuple[str, str]:
    """One lesson, prompt and response; never about a reserved problem."""
    while True:
        if generator.random() < EXPRESSION_SHARE:
            prompt, response = _plain_expression(generator)
        else:
            chain = draw_chain(generator)
            prompt, response = chain.prompt, _careless_answer(chain, generator)
        if not is_reserved(prompt):
            return prompt, response


def _careless_answer(chain: Chain, generator: np.random.Generator) -> str:
    """A worked answer in which carries are forgotten; later steps go on from what was written."""
    value = chain.operands[0]
    lines = []
    for sign, operand in zip(chain.operators, chain.operands[1:], strict=True):
        result = Chain((value, operand), sign).answer
        if generator.random() < FORGETS_CARRY:
            if sign == "+" and value % 10 + operand % 10 >= 10:
                result -= 10
            elif sign == "-" and value % 10 < operand % 10:
                result += 10
        lines.append(f"{value}{sign}{operand}={result}")
        value = result
    return "\n".join([*lines, f"{MARKER} {value}"])


def _plain_expression(generator: np.random.Generator) -> tuple[str, str]:
    """One operation on numbers of the sizes found in school problems, worked out right."""
    sign = str(generator.choice(["+", "-", "*", "/"], p=[0.29, 0.28, 0.26, 0.17]))
    if sign in "+-":
        first, second = _number(generator, (1, 5, 3)), _number(generator, (2, 5, 3))
        first, second = (max(first, second), min(first, second)) if sign == "-" else (first, second)
        result = first + second if sign == "+" else first - second
    elif sign == "*":
        first, second = _number(generator, (3, 5, 2)), int(generator.choice(_FACTORS))
        result = first * second
        first, second = (first, second) if generator.random() < 0.5 else (second, first)
    else:
        second, result = int(generator.choice(_FACTORS)), _number(generator, (3, 6, 2))
        first = second * result
    expression = f"{first}{sign}{second}="
    return expression, f"{expression}{result}\n{MARKER} {result}"


_FACTORS = (2, 2, 2, 3, 3, 4, 4, 5, 5, 6, 7, 8, 9, 10, 10, 12, 20)


def _number(generator: np.random.Generator, odds: tuple[int, int, int]) -> int:
    """A number of one, two or three digits with the given odds; longer ones are mostly round."""
    digits = int(generator.choice(3, p=np.array(odds) / sum(odds)))
    if digits == 0:
        return int(generator.integers(1, 10))
    number = int(generator.integers(10**digits, 10 ** (digits + 1)))
    if digits == 1:
        return number // 5 * 5 if generator.random() < 0.3 else number
    unit = int(generator.choice([1, 10, 100], p=[0.25, 0.5, 0.25]))
    return number // unit * unit
