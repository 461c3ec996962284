"""From answers to numbers: accuracy per benchmark with its errors, the weighted average, the table of several models.

`python -m launch.scores FOLDER...` shows evaluations side by side, one model a row, as the paper does.
"""

import csv
import io
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from delta.errors import DataError
from delta.types import Outcome
from launch.command import errors_explained
from workers.files import storage_errors, write_whole

SCORES = "scores.json"
AVERAGE = "average"


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRow:
    """One sampled answer and what was found of it: a line of `answers/BENCHMARK.jsonl`."""

    key: str
    """Of everything that decides the answer: model, prompt, sampling, seed."""
    problem: str
    sample: int
    outcome: Outcome
    detail: str
    tokens: int
    truncated: bool
    response: str

    def as_json(self) -> str:
        """The line."""
        return json.dumps({**asdict(self), "outcome": self.outcome.value})

    @staticmethod
    def from_json(line: str) -> "AnswerRow":
        """The line read back.

        Raises:
            ValueError: It is no such line.
        """
        try:
            row = json.loads(line)
            return AnswerRow(**{**row, "outcome": Outcome(row["outcome"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"{line[:80]!r} is no answer ({error})") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A model on a benchmark. Answers that could not be judged are counted apart, and in nothing else."""

    benchmark: str
    problems: int
    """Those with a judged answer."""
    answers: int
    accuracy: float | None
    """Mean over the problems of the share of right answers (avg@k); None if nothing was judged."""
    standard_error: float | None
    """How far another set of such problems might be off: deviation over problems / sqrt(problems)."""
    sampling_error: float | None
    """How far other samples for the same problems might be off: sqrt(sum p (1 - p) / (k - 1)) / problems."""
    timeouts: int
    errors: int
    truncated: float
    """Share of the answers that met the token limit."""
    tokens: float
    """Mean of an answer."""


def score(benchmark: str, answers: Sequence[AnswerRow]) -> Score:
    """The numbers of a benchmark."""
    right: dict[str, list[bool]] = {}
    for answer in answers:
        if answer.outcome.is_judgement:
            right.setdefault(answer.problem, []).append(answer.outcome is Outcome.correct)
    shares = {problem: statistics.fmean(found) for problem, found in right.items()}
    repeated = bool(right) and all(len(found) > 1 for found in right.values())
    variance = (
        sum(shares[name] * (1 - shares[name]) / (len(found) - 1) for name, found in right.items()) if repeated else 0
    )
    return Score(
        benchmark=benchmark,
        problems=len(right),
        answers=len(answers),
        accuracy=statistics.fmean(shares.values()) if shares else None,
        standard_error=statistics.stdev(shares.values()) / math.sqrt(len(shares)) if len(shares) > 1 else None,
        sampling_error=math.sqrt(variance) / len(shares) if repeated else None,
        timeouts=sum(answer.outcome is Outcome.timeout for answer in answers),
        errors=sum(answer.outcome is Outcome.error for answer in answers),
        truncated=statistics.fmean(answer.truncated for answer in answers),
        tokens=statistics.fmean(answer.tokens for answer in answers),
    )


def average(scores: Sequence[Score]) -> Score:
    """All benchmarks together, weighted by their problems, as if their errors were independent."""
    judged = [each for each in scores if each.accuracy is not None]
    problems, answers = sum(each.problems for each in judged), sum(each.answers for each in scores)

    def error(of: Sequence[float | None]) -> float | None:
        known = [each for each in of if each is not None]
        if not known or len(known) < len(judged):
            return None
        return math.hypot(*(one.problems * each for one, each in zip(judged, known, strict=True))) / problems

    return Score(
        benchmark=AVERAGE,
        problems=problems,
        answers=answers,
        accuracy=sum(each.problems * (each.accuracy or 0.0) for each in judged) / problems if judged else None,
        standard_error=error([each.standard_error for each in judged]),
        sampling_error=error([each.sampling_error for each in judged]),
        timeouts=sum(each.timeouts for each in scores),
        errors=sum(each.errors for each in scores),
        truncated=sum(each.answers * each.truncated for each in scores) / answers,
        tokens=sum(each.answers * each.tokens for each in scores) / answers,
    )


def table(scores: Sequence[Score]) -> Table:
    """The numbers in percent; the last row is the average, where there is something to average."""
    shown = Table(box=box.SIMPLE, padding=(0, 1), collapse_padding=True)
    names = ("benchmark", "problems", "answers", "avg@k %", "std. error", "of sampling")
    for name in (*names, "timeouts", "errors", "cut %", "tokens"):
        shown.add_column(name, justify="left" if name == "benchmark" else "right", no_wrap=True)
    for each in scores:
        shown.add_row(
            each.benchmark,
            str(each.problems),
            str(each.answers),
            *(_percent(value) for value in (each.accuracy, each.standard_error, each.sampling_error)),
            str(each.timeouts),
            str(each.errors),
            f"{100 * each.truncated:.1f}",
            f"{each.tokens:.0f}",
        )
    return shown


def write(folder: Path, scores: Sequence[Score], settings: Mapping[str, object]) -> None:
    """Write `scores.json`, `scores.csv` and `scores.txt`.

    Raises:
        StorageError: They cannot be written.
    """
    lines = io.StringIO()
    writer = csv.DictWriter(lines, list(asdict(scores[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(asdict, scores))
    text = io.StringIO()
    Console(file=text, width=140).print(table(scores))
    with storage_errors(f"cannot write the scores into {folder}", remedy="Free space, then start the command again."):
        write_whole(folder / "scores.csv", lines.getvalue())
        write_whole(folder / "scores.txt", text.getvalue())
        report = {"settings": dict(settings), "scores": [asdict(each) for each in scores]}
        write_whole(folder / SCORES, json.dumps(report, indent=1) + "\n")


def side_by_side(folders: Sequence[Path]) -> Table:
    """Evaluations of several models, a row each: benchmarks, and last the average.

    Raises:
        DataError: A folder holds no finished evaluation, or one of other benchmarks or with other settings.
    """
    shown = Table(box=box.SIMPLE, padding=(0, 1), collapse_padding=True)
    shown.add_column("avg@k %, and its error of sampling", no_wrap=True)
    first: tuple[list[str], dict[str, object]] | None = None
    for folder in folders:
        try:
            report = json.loads((folder / SCORES).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{folder} holds no finished evaluation ({error}). Finish it with delta-eval.") from error
        scores = [Score(**each) for each in report["scores"]]
        found = [each.benchmark for each in scores], {**report["settings"], "model": None}
        if first is None:
            first = found
            for name in found[0]:
                shown.add_column(name, justify="right", no_wrap=True)
        elif found != first:
            raise DataError(
                f"{folder} was measured on {found[0]} with {found[1]}, {folders[0]} on {first[0]} with {first[1]}; "
                "expected the same, or the rows would not compare."
            )
        shown.add_row(folder.name, *(f"{_percent(each.accuracy)} ± {_percent(each.sampling_error)}" for each in scores))
    return shown


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


if __name__ == "__main__":
    with errors_explained():
        if not sys.argv[1:]:
            raise DataError("no folder was named: expected python -m launch.scores FOLDER...")
        Console(soft_wrap=True).print(side_by_side([Path(name) for name in sys.argv[1:]]))
