"""The report on a sweep: how its members are doing, what the methods reached, and how sure that is.

Everything is computed from the files of the run folders, so a report can be made again at any time. Errors are standard
errors over seeds. Equal seeds share the initial model and the problems, so methods are also compared seed by seed; the
exact test for that has p-values of at least 2 / 2^n (0.0625 with five seeds).
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from delta.errors import DataError
from launch.statistics import WINDOW, Estimate, Method, Run, summarize, unequal
from launch.sweep.plot import draw
from launch.sweep.runs import Found, find_members
from workers.files import storage_errors

BASELINES = ("dapo", "uniform")
"""What the others are compared with unless told otherwise, where there is one of these: credit without any idea."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A sweep, and what to know before believing it."""

    folder: Path
    threshold: float
    """Reward to reach, as the mean of the last `WINDOW` steps."""
    baseline: str | None
    methods: Sequence[Method]
    warnings: Sequence[str]
    members: Sequence[Found]

    @property
    def runs(self) -> list[Run]:
        """The complete ones."""
        return [found.run for found in self.members if found.run is not None]


def report_on(folder: Path, *, threshold: float, baseline: str) -> Report:
    """Read all members of a sweep and put the complete ones together.

    Raises:
        DataError: There is none, or no complete one of the baseline.
    """
    members = find_members(folder)
    runs = [found.run for found in members if found.run is not None]
    names = sorted({run.method for run in runs})
    swept = {key for found in members for key in found.member.choices}
    chosen = _baseline(baseline, names)
    return Report(
        folder=folder,
        threshold=threshold,
        baseline=chosen,
        methods=summarize(runs, threshold=threshold, baseline=chosen),
        warnings=unequal(runs, swept=swept),
        members=members,
    )


def _baseline(wanted: str, names: Sequence[str]) -> str | None:
    if not wanted:
        return next((name for name in BASELINES if name in names), None) if len(names) > 1 else None
    if wanted not in names:
        expected = f"expected one of {', '.join(names)}" if names else "no member is complete yet"
        raise DataError(f"baseline={wanted}: no complete run of it; {expected}.")
    return wanted


Rows = list[list[str]]


def tables(report: Report) -> list[Rows]:
    """Cells of all tables; the first row of each is its head."""
    members = [["member", "state", "step", "greedy", "sampled", "best sampled", "cost"]]
    for found in report.members:
        run, status = found.run, found.status
        step = f"{status.step}/{status.steps}" if status.steps else str(status.step)
        numbers = ["", "", "", ""]
        if run is not None:
            best = f"{run.best.sampled:.3f} at step {run.best.step}"
            numbers = [f"{run.final.greedy:.3f}", f"{run.final.sampled:.3f}", best, _hours(run.hours, run.settings)]
        members.append([found.member.name, status.text, step, *numbers])
    return [members, *_of_methods(report)] if report.methods else [members]


def _of_methods(report: Report) -> list[Rows]:
    held_out = [["method", "runs", "greedy", "sampled", "best greedy", "best sampled", "best step", "cost", "tokens"]]
    reward = [["method", "reward, last quarter", "reward, all steps", f"steps to reward {report.threshold:g}"]]
    base = report.baseline
    paired = [["method", "pairs", f"held-out sampled, minus {base}", "p", f"reward, all steps, minus {base}", "p"]]
    for method in report.methods:
        own = [found for found in report.members if found.method == method.method]
        settings = next(found.run.settings for found in own if found.run is not None)
        accuracies = (method.greedy_accuracy, method.sampled_accuracy)
        best = (method.best_greedy_accuracy, method.best_sampled_accuracy)
        cells = [*map(_cell, (*accuracies, *best)), _cell(method.best_step, ".1f")]
        cells += [_hours(method.hours.mean or 0.0, settings), f"{method.tokens.mean or 0:,.0f}"]
        held_out.append([method.method, f"{len(method.seeds)}/{len(own)}", *cells])
        steps = f"{_cell(method.steps_to_threshold, '.1f')} ({method.steps_to_threshold.n}/{len(method.seeds)})"
        reward.append([method.method, _cell(method.reward_last_quarter), _cell(method.reward_area), steps])
        if (accuracy := method.paired_sampled_accuracy) and (area := method.paired_reward_area):
            cells = [_cell(accuracy.difference, "+.3f"), _p(accuracy.p_value)]
            cells += [_cell(area.difference, "+.3f"), _p(area.p_value)]
            paired.append([method.method, str(len(accuracy.seeds)), *cells])
    return [held_out, reward, paired] if base else [held_out, reward]


def _cell(value: Estimate, form: str = ".3f") -> str:
    if value.mean is None:
        return "none"
    error = "" if value.standard_error is None else f" ± {value.standard_error:{form.removeprefix('+')}}"
    return f"{value.mean:{form}}{error}"


def _p(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"


def _unit(settings: Mapping[str, Any]) -> str:
    return "GPU" if settings.get("cluster.num_gpus") else "CPU"


def _hours(hours: float, settings: Mapping[str, Any]) -> str:
    return f"{hours:.3g} {_unit(settings)}-hours"


def notes(report: Report) -> list[str]:
    """What the numbers are, one line each; then the warnings."""
    if not report.methods:
        return ["No member is complete yet; there is nothing to compare."]
    lines = [
        "Mean ± standard error over the complete runs of a method; a single run has none. Accuracy is that of held-out "
        "problems after the last step; best is the highest of all measurements, which flatters noise.",
        "Cost and tokens are of one run: time of its training steps times what it holds, and tokens generated "
        "for training.",
        f"Steps to reward: first step at which the mean reward of the last {WINDOW} steps reaches the threshold, over "
        "the runs that reach it (how many of how many). The others are censored and in no mean.",
    ]
    if report.baseline:
        lines.append(
            "p: two-sided paired sign-flip test, exact, not corrected for the number of methods. It cannot be below "
            "2 / 2^pairs: 0.0625 for five."
        )
    return lines + [f"Warning: {warning}." for warning in report.warnings]


def markdown(report: Report) -> str:
    """The tables and notes, to be pasted into documentation."""
    blocks = []
    for head, *rows in tables(report):
        lines = [head, ["---"] * len(head), *rows]
        blocks.append("\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines))
    blocks.append("\n".join(f"- {note}" for note in notes(report)))
    return "\n\n".join(blocks) + "\n"


def show(report: Report, console: Console) -> None:
    """Print the tables and notes."""
    for head, *rows in tables(report):
        table = Table()
        for column in head:
            table.add_column(escape(column), overflow="fold")
        for row in rows:
            table.add_row(*map(escape, row))
        console.print(table)
    for note in notes(report):
        console.print(note, markup=False, highlight=False)


def write(report: Report) -> list[str]:
    """Write the report into the folder of the sweep; the names of its files.

    `sweep.csv` has a row for each method, `members.csv` for each member, `sweep.md` the tables, and `sweep.png`, where
    a member is complete, the curves.

    Raises:
        StorageError: They cannot be written.
    """
    with storage_errors(f"{report.folder} cannot be written", remedy="Free space or mend the permissions."):
        _write_csv(report.folder / "members.csv", [_member_row(found) for found in report.members])
        (report.folder / "sweep.md").write_text(markdown(report), encoding="utf-8")
        if not report.methods:
            return ["members.csv", "sweep.md"]
        _write_csv(report.folder / "sweep.csv", [_method_row(method, report) for method in report.methods])
        draw(report.methods, report.runs, report.folder / "sweep.png", threshold=report.threshold)
    return ["sweep.csv", "members.csv", "sweep.md", "sweep.png"]


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def _method_row(method: Method, report: Report) -> dict[str, Any]:
    """Means and standard errors; an empty cell is a number that there is not."""
    own = [found for found in report.members if found.method == method.method]
    row: dict[str, Any] = {"method": method.method, "runs": len(method.seeds), "members": len(own)}
    for field in fields(method):
        value = getattr(method, field.name)
        if isinstance(value, Estimate):
            row |= {field.name: value.mean, f"{field.name}_standard_error": value.standard_error}
    row["hours_of"] = _unit(next(found.run.settings for found in own if found.run is not None))
    row["runs_below_threshold"] = len(method.seeds_below_threshold)
    for name in ("sampled_accuracy", "reward_area"):
        if report.baseline:
            paired = getattr(method, f"paired_{name}")
            row[f"{name}_minus_{report.baseline}"] = paired and paired.difference.mean
            row[f"{name}_minus_{report.baseline}_standard_error"] = paired and paired.difference.standard_error
            row[f"{name}_minus_{report.baseline}_p"] = paired and paired.p_value
    return row


def _member_row(found: Found) -> dict[str, Any]:
    run, status = found.run, found.status
    return {
        "member": found.member.name,
        "method": found.method,
        "seed": run and run.seed,
        "state": status.state.value,
        "detail": status.detail,
        "step": status.step,
        "steps": status.steps,
        "greedy_accuracy": run and run.final.greedy,
        "sampled_accuracy": run and run.final.sampled,
        "best_sampled_accuracy": run and run.best.sampled,
        "best_step": run and run.best.step,
        "hours": run and run.hours,
        "hours_of": run and _unit(run.settings),
        "tokens": run and run.tokens,
        "run_dir": found.member.run_dir,
    }
