"""Real problems, where the shared data folder is there: GSM8K's expressions and its untouched prompts."""

import json
from fractions import Fraction
from pathlib import Path

import pytest

from delta.data.gsm8k_expressions import read_gsm8k_expressions
from delta.data.problems import hold_out, read_jsonl
from tests.conftest import ROOT, TINY, Train

GSM8K = ROOT.parent / "shared" / "data" / "math" / "gsm8k_train.jsonl"

pytestmark = pytest.mark.skipif(not GSM8K.exists(), reason="the shared data folder is not here")


def value(expression: str) -> Fraction:
    """One operation, worked out without evaluating text."""
    for sign in "+-*/":
        left, found, right = expression.partition(sign)
        if found:
            a, b = Fraction(left), Fraction(right)
            return {"+": a + b, "-": a - b, "*": a * b}[sign] if sign != "/" else a / b
    raise AssertionError(expression)


def test_expressions_are_extracted_with_their_true_values():
    problems = read_gsm8k_expressions(GSM8K)
    right = [value(problem.prompt.removesuffix("=")) == int(problem.answer) for problem in problems]
    assert len(problems) > 10_000
    assert sum(right) > 0.98 * len(right)  # the annotators rounded here and there


def test_held_out_expressions_are_never_trained_on():
    split = hold_out(read_gsm8k_expressions(GSM8K), count=200)
    assert len(split.held_out) == 200
    assert not {problem.prompt for problem in split.train} & {problem.prompt for problem in split.held_out}


def test_all_prompts_are_read():
    assert len(read_jsonl(GSM8K)) == 7473


@pytest.mark.ray
@pytest.mark.slow
def test_untouched_prompts_train_without_breaking_anything(train: Train, tmp_path: Path):
    overrides = [name for name in TINY if not name.startswith("rollout.max_model_len")]
    run_dir = tmp_path / "run"
    train(*overrides, "data=jsonl", f"data.path={GSM8K}", "steps=2", f"run_dir={run_dir}", check=True)
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert all(row["reward/error"] == row["reward/timeout"] == 0 for row in rows)
