"""Scores by hand: what an answer counts for, the two errors, the weighted average, files and tables."""

import csv
import json
import math

import pytest
from rich.console import Console

from delta.errors import DataError
from delta.types import Outcome
from launch.scores import AnswerRow, Score, average, score, side_by_side, table, write
from tests.conftest import ROOT

LETTERS = {
    "c": Outcome.correct,
    "w": Outcome.wrong,
    "u": Outcome.unparsable,
    "t": Outcome.timeout,
    "e": Outcome.error,
}


def answers(**outcomes: str) -> list[AnswerRow]:
    """A letter for each answer to each problem."""
    return [
        AnswerRow(
            key="k", problem=problem, sample=sample, outcome=LETTERS[letter], detail="", tokens=10 * (sample + 1),
            truncated=letter == "u", response="...",
        )
        for problem, letters in outcomes.items()
        for sample, letter in enumerate(letters)
    ]  # fmt: skip


def test_accuracy_and_its_errors_by_hand():
    found = score("b", answers(one="cccc", two="cwww", three="uwcc"))
    assert (found.problems, found.answers) == (3, 12)
    assert found.accuracy == pytest.approx((1 + 0.25 + 0.5) / 3)
    # deviations from 7/12 over three problems, and p (1 - p) / 3 for each of them
    assert found.standard_error == pytest.approx(math.sqrt(((5 / 12) ** 2 + (4 / 12) ** 2 + (1 / 12) ** 2) / 2 / 3))
    assert found.sampling_error == pytest.approx(math.sqrt((0.25 * 0.75 + 0.25) / 3) / 3)
    assert found.truncated == pytest.approx(1 / 12)
    assert found.tokens == 25


def test_the_sampling_error_is_what_other_samples_would_differ_by():
    import random

    draw = random.Random(5)
    rates = [0.1, 0.5, 0.8, 0.95]

    def measured() -> Score:
        return score(
            "b",
            answers(
                **{f"p{i}": "".join("c" if draw.random() < p else "w" for _ in range(8)) for i, p in enumerate(rates)}
            ),
        )

    found = [measured() for _ in range(2000)]
    mean = sum(each.accuracy for each in found) / len(found)
    spread = math.sqrt(sum((each.accuracy - mean) ** 2 for each in found) / len(found))
    told = math.sqrt(sum(each.sampling_error**2 for each in found) / len(found))
    assert told == pytest.approx(spread, rel=0.05)


def test_what_was_not_judged_counts_in_nothing_else():
    found, without = score("b", answers(one="ctcw", two="cew", three="tt")), score("b", answers(one="ccw", two="cw"))
    assert (found.timeouts, found.errors, found.problems) == (3, 1, 2)
    assert found.accuracy == without.accuracy == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found.standard_error == without.standard_error
    nothing = score("b", answers(one="te"))
    assert (nothing.accuracy, nothing.standard_error, nothing.sampling_error, nothing.problems) == (None, None, None, 0)


def test_one_sample_or_one_problem_has_no_error_to_tell():
    assert score("b", answers(one="c", two="w")).sampling_error is None
    assert score("b", answers(one="cw")).standard_error is None


def test_the_average_is_weighted_by_problems():
    small, large = (
        score("s", answers(one="cc", two="cw")),
        score("l", answers(a="ww", b="cw", c="ww", d="cw", e="ww", f="ww")),
    )
    both = average([small, large])
    assert both.accuracy == pytest.approx((2 * 0.75 + 6 * (1 / 6)) / 8)
    assert both.standard_error == pytest.approx(math.hypot(2 * small.standard_error, 6 * large.standard_error) / 8)
    assert both.sampling_error == pytest.approx(math.hypot(2 * small.sampling_error, 6 * large.sampling_error) / 8)
    assert (both.benchmark, both.problems, both.answers, both.tokens) == ("average", 8, 16, 15)
    unjudged = score("n", answers(one="te"))
    assert average([small, unjudged]).accuracy == small.accuracy
    assert average([small, unjudged]).timeouts == 1
    assert average([unjudged]).accuracy is None


@pytest.mark.parametrize("method", ["DAPO", "DAPO w/ forking tokens", "SAPO", "FIPO", "**DelTA**"])
def test_the_papers_averages_are_weighted_by_problems(method):
    """Its rows as docs/paper.md quotes them; 30 problems each but for HMMT February 2026, the sixth, with 33."""
    page = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    line = next(line for line in page.splitlines() if line.startswith(f"| {method} |") and line.count("|") == 10)
    *percents, expected = map(float, line.replace("*", "").split("|")[2:-1])
    scores = [
        Score(
            benchmark=str(place), problems=33 if place == 5 else 30, answers=1, accuracy=percent, standard_error=None,
            sampling_error=None, timeouts=0, errors=0, truncated=0, tokens=1,
        )
        for place, percent in enumerate(percents)
    ]  # fmt: skip
    assert average(scores).accuracy == pytest.approx(expected, abs=0.006)
    assert average(scores).standard_error is None


def test_files_and_table_tell_the_same(tmp_path):
    scores = [score("aime", answers(one="cwww", two="wwte"))]
    scores.append(average(scores))
    write(tmp_path, scores, {"model": "m", "seed": 1})
    kept = json.loads((tmp_path / "scores.json").read_text())
    assert [Score(**each) for each in kept["scores"]] == scores
    assert kept["settings"] == {"model": "m", "seed": 1}
    with (tmp_path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["benchmark"] for row in rows] == ["aime", "average"]
    assert float(rows[0]["accuracy"]) == scores[0].accuracy == 0.125
    text = (tmp_path / "scores.txt").read_text()
    assert text.split() == _text(table(scores)).split()
    aime = next(line.split() for line in text.splitlines() if "aime" in line)
    assert aime == ["aime", "2", "8", "12.50", "12.50", "12.50", "1", "1", "0.0", "25"]


def _text(shown) -> str:
    console = Console(width=160)
    with console.capture() as captured:
        console.print(shown)
    return captured.get()


def test_models_side_by_side_have_the_same_benchmarks_and_settings(tmp_path):
    for name, letters, settings in (("dapo", "cw", {}), ("delta", "cc", {}), ("other", "cc", {"top_p": 1.0})):
        (tmp_path / name).mkdir()
        write(tmp_path / name, [score("aime", answers(one=letters))], {"model": name, "top_p": 0.7, **settings})
    text = _text(side_by_side([tmp_path / "dapo", tmp_path / "delta"]))
    assert "dapo" in text and "50.00 ± 50.00" in text and "100.00 ± 0.00" in text  # noqa: PT018
    with pytest.raises(DataError, match="expected the same, or the rows would not compare"):
        side_by_side([tmp_path / "dapo", tmp_path / "other"])
    with pytest.raises(DataError, match="holds no finished evaluation"):
        side_by_side([tmp_path])
