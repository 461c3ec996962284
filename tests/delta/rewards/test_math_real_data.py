"""The judge on published reference answers, where the shared data folder is there."""

# ruff: noqa: UP031  answers are full of braces

import json
import os
import random
import re
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import pytest

from delta.rewards.equivalence import equivalent
from delta.rewards.final_answer import check_reference, judge_final_answer
from tests.conftest import ROOT

DATA = Path(os.environ.get("DELTA_SHARED_DATA", ROOT.parent / "shared" / "data")) / "math"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data folder is not here")

SAMPLE = 150


@lru_cache
def references(file: str) -> tuple[str, ...]:
    rows = (DATA / file).read_text(encoding="utf-8").strip().split("\n")
    return tuple(dict.fromkeys(str(json.loads(row)["answer"]) for row in rows))


FILES = sorted(path.name for path in DATA.glob("*.jsonl")) if DATA.is_dir() else []


def renderings(answer: str) -> list[str]:
    """Ways in which a model that found the answer may write it."""
    bare = answer.strip()
    bare = bare[1:-1] if bare.startswith("$") and bare.endswith("$") and bare.count("$") == 2 else bare
    shown = [
        f"\\boxed{{{answer}}}",
        f"#### {answer}",
        f"\\boxed{{ {bare} }}.",
        f"\\[\\boxed{{{bare}.}}\\]",
        f"So.\nThe answer is ${bare}$.",
        f"The final answer is \\({bare}\\).",
        f"**Answer:** {bare}",
        f"Final answer: $\\displaystyle {bare}$",
        f"\\boxed{{{bare.replace(chr(92) + 'frac', chr(92) + 'dfrac')}}}",
    ]
    if "\\" not in bare and "$" not in bare:
        shown.append(f"\\boxed{{\\text{{{bare}}}}}")
    if bare.count("(") == bare.count(")") and "[" not in bare and "\\left" not in bare:
        shown.append("\\boxed{%s}" % bare.replace("(", "\\left(").replace(")", "\\right)"))
    return shown


@pytest.mark.parametrize("file", FILES)
def test_references_equal_themselves_however_they_are_written(file: str):
    for answer in references(file):
        assert check_reference(answer) is None
        assert equivalent(answer, answer, shortcuts=False)
        for response in renderings(answer):
            verdict = judge_final_answer(response, answer)
            assert verdict.reward == 1.0, (response, verdict.detail)


DECORATION = re.compile(
    r"\\mbox\{.*|\\text\{ ?(?:cents|degrees)\}|\^\{?\\circ\}?|\\[$%!]|[$\s{}]|\\left|\\right|^\w(?:\(x\))?="
)
MIXED = [{"\\frac{7\\sqrt{3}}{3}", "\\frac{7}{3}\\sqrt{3}"}]
"""Equal references that the crude comparison below does not see."""


def essence(answer: str) -> object:
    """What a crude reader takes an answer for: a number without unit, degree or name, or its items in any order."""
    answer = DECORATION.sub("", answer.replace("\\dfrac", "\\frac"))
    try:
        return Fraction(answer.replace(",", "").replace("./", "/"))
    except ValueError:
        return tuple(sorted(answer.split(",")))


def value_of_fraction(answer: str) -> Fraction | None:
    found = re.fullmatch(r"(-?)\\[dt]?frac(?:\{(-?\d+)\}| ?(\d))(?:\{(\d+)\}| ?(\d))", answer.strip("$"))
    if found is None:
        return None
    sign, *parts = found.groups()
    upper, lower = [part for part in parts if part is not None]
    return Fraction(int(sign + "1") * int(upper), int(lower))


def same_by_eye(first: str, second: str) -> bool:
    values = [value_of_fraction(answer) or essence(answer) for answer in (first, second)]
    return values[0] == values[1] or {first, second} in MIXED


@pytest.mark.parametrize("file", FILES)
def test_references_are_not_each_other(file: str):
    answers = list(references(file))
    random.Random(0).shuffle(answers)
    for answer in answers[:SAMPLE]:
        for other in answers[:SAMPLE]:
            if answer != other and equivalent(other, answer):
                assert same_by_eye(answer, other), (other, answer)


@pytest.mark.parametrize("file", FILES)
def test_shortcuts_change_no_verdict(file: str):
    answers = list(references(file))
    picks = random.Random(1)
    for answer in answers[:SAMPLE]:
        for other in (answer, f"${answer}$", picks.choice(answers), picks.choice(answers)):
            assert equivalent(other, answer) == equivalent(other, answer, shortcuts=False), (other, answer)
