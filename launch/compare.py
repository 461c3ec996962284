"""Compare the runs of a sweep: `python -m launch.compare FOLDER...`, console script `delta-compare`.

Everything is computed from the files of the run folders, so a comparison can be made again at any time. Errors are
standard errors over seeds. Equal seeds share the initial model and the problems, so methods are also compared seed by
seed; the exact test for that has p-values of at least 2 / 2^n (0.0625 with five seeds).
"""

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from yaml import YAMLError  # type: ignore[import-untyped]

from delta.errors import DataError, StorageError
from launch.command import errors_explained
from launch.statistics import WINDOW, Estimate, Method, Run, estimate, running_mean, summarize, unequal
from workers.controller.metrics import JsonLines

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9", "#882255")
"""Distinct to colour-blind readers: Okabe and Ito's, with wine for the yellow that white paper swallows."""
STYLES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (8, 2)), (0, (4, 1, 1, 1, 1, 1)), (0, (1, 3)))
"""One fewer than colours: 56 methods pass before a pair comes twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A sweep, and what to know before believing it."""

    threshold: float
    """Reward to reach, as the mean of the last `window` steps."""
    window: int
    baseline: str | None
    methods: list[Method]
    warnings: list[str]
    left_out: dict[str, str]
    """Run folder to the reason."""
    runs: list[Run]


def compare(roots: Sequence[Path], *, threshold: float, baseline: str | None) -> Comparison:
    """Read all runs below the folders and compare their methods.

    Raises:
        DataError: There is nothing to compare.
    """
    runs, left_out = read_runs(roots)
    names = sorted({run.method for run in runs})
    if len(names) < 2:
        seen = f"only one method, {names[0]}" if names else "no complete run"
        raise DataError(
            f"{' '.join(map(str, roots))}: found {seen}. Expected complete runs of two or more methods, in folders "
            "with config.yaml, metrics.jsonl and evaluations.jsonl. Name the folder of the whole sweep, or finish it."
            + "".join(f"\n  left out: {folder}, {reason}" for folder, reason in left_out.items())
        )
    if baseline is None and "dapo" in names:
        baseline = "dapo"
    if baseline is not None and baseline not in names:
        raise DataError(f"--baseline {baseline}: no complete run of it; expected one of {', '.join(names)}.")
    return Comparison(
        threshold=threshold,
        window=WINDOW,
        baseline=baseline,
        methods=summarize(runs, threshold=threshold, baseline=baseline),
        warnings=unequal(runs),
        left_out=left_out,
        runs=runs,
    )


def read_runs(roots: Sequence[Path]) -> tuple[list[Run], dict[str, str]]:
    """The complete runs, and the other run folders with the reason why they are left out."""
    runs: dict[tuple[str, int], Run] = {}
    left_out = {}
    folders = {
        folder: root for root in (Path(os.path.abspath(root)) for root in roots) for folder in _run_folders(root)
    }
    for folder, root in folders.items():
        name = folder.relative_to(root.parent).as_posix()
        try:
            run = read_run(folder, name=name)
        except DataError as error:
            left_out[name] = str(error)
            continue
        twin = runs.setdefault((run.method, run.seed), run)
        if twin is not run:
            raise DataError(
                f"{twin.folder} and {name} are both {run.method} with seed {run.seed}: expected one run per method and "
                "seed. Give one of them another label in its config.yaml, or move it elsewhere."
            )
    return list(runs.values()), left_out


def _run_folders(root: Path) -> Iterator[Path]:
    """Folders with a configuration, or named like a seed; what lies within a run is its own business."""
    if not root.is_dir():
        raise DataError(f"{root} is not a folder: expected one with run folders in it, such as runs/compare.")
    for place, children, files in os.walk(root, followlinks=True):
        if "config.yaml" in files or re.fullmatch(r"seed\d+", Path(place).name):
            children.clear()
            yield Path(place)
        children[:] = sorted(child for child in children if not child.startswith("."))


def read_run(folder: Path, *, name: str) -> Run:
    """One run from its files.

    Raises:
        DataError: It is not complete; the message is the bare reason.
    """
    if not (folder / "config.yaml").is_file():
        raise DataError("no config.yaml: it never began")
    try:
        settings = dict(_flatten(OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"), resolve=True)))
        steps, seed = int(settings["steps"]), int(settings["seed"])
    except (OSError, YAMLError, OmegaConfBaseException, KeyError, TypeError, ValueError) as error:
        raise DataError(f"config.yaml is damaged or lacks a setting: {error!r}") from error
    rows = JsonLines(folder / "metrics.jsonl").rows()
    if [row["step"] for row in rows] != list(range(1, steps + 1)):
        raise DataError(f"{len(rows)} rows in metrics.jsonl, expected one for each of {steps} steps")
    final = [row for row in JsonLines(folder / "evaluations.jsonl").rows() if row["step"] == steps]
    if not final:
        raise DataError(f"no evaluation after step {steps}")
    rewards = [row.get("reward/mean", math.nan) for row in rows]
    if not all(map(math.isfinite, rewards)):
        raise DataError("reward/mean in metrics.jsonl is missing or not finite")
    return Run(
        folder=name,
        method=str(settings.get("label") or folder.parent.name),
        seed=seed,
        settings=settings,
        rewards=rewards,
        sampled_accuracy=final[-1]["sampled_accuracy"],
        greedy_accuracy=final[-1]["accuracy"],
    )


def _flatten(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _flatten(value, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, node


def tables(comparison: Comparison) -> list[list[list[str]]]:
    """Cells of the table of methods and, with a baseline, of the paired differences; the first row is the head."""
    base, goal = comparison.baseline, f"steps to reward {comparison.threshold:g}"
    columns = ("seeds", "held-out sampled", "held-out greedy", "reward, last quarter", "reward, all steps", goal)
    by_method = [["method", *columns]]
    paired = [["method", "pairs", f"held-out sampled, minus {base}", "p", f"reward, all steps, minus {base}", "p"]]
    for method in comparison.methods:
        total = len(method.seeds)
        accuracies = (method.sampled_accuracy, method.greedy_accuracy)
        cells = [_cell(value) for value in (*accuracies, method.reward_last_quarter, method.reward_area)]
        steps = f"{_cell(method.steps_to_threshold, '.1f')} ({method.steps_to_threshold.n}/{total})"
        by_method.append([method.method, str(total), *cells, steps])
        if (accuracy := method.paired_sampled_accuracy) and (area := method.paired_reward_area):
            cells = [_cell(accuracy.difference, "+.3f"), _p(accuracy.p_value)]
            cells += [_cell(area.difference, "+.3f"), _p(area.p_value)]
            paired.append([method.method, str(len(accuracy.seeds)), *cells])
    return [by_method, paired] if base else [by_method]


def _cell(value: Estimate, form: str = ".3f") -> str:
    if value.mean is None:
        return "none"
    error = "" if value.standard_error is None else f" ± {value.standard_error:{form.removeprefix('+')}}"
    return f"{value.mean:{form}}{error}"


def _p(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"


def notes(comparison: Comparison) -> list[str]:
    """What the numbers are, one line each; then the warnings, and the runs that are not in them."""
    lines = [
        "Mean ± standard error over seeds; a single run has none. Held-out accuracy is that after the last step.",
        f"Steps to reward: first step at which the mean reward of the last {WINDOW} steps reaches the threshold, over "
        "the seeds that reach it (how many of how many). The others are censored and in no mean.",
    ]
    if comparison.baseline:
        lines.append(
            "p: two-sided paired sign-flip test, exact, not corrected for the number of methods. It cannot be below "
            "2 / 2^pairs: 0.0625 for five."
        )
    lines += [f"Warning: {warning}." for warning in comparison.warnings]
    return lines + [f"Left out: {folder}, {reason}." for folder, reason in comparison.left_out.items()]


def markdown(comparison: Comparison) -> str:
    """The tables and notes, to be pasted into documentation."""
    blocks = []
    for head, *rows in tables(comparison):
        lines = [head, ["---"] * len(head), *rows]
        blocks.append("\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines))
    blocks.append("\n".join(f"- {note}" for note in notes(comparison)))
    return "\n\n".join(blocks) + "\n"


def draw(comparison: Comparison, path: Path) -> None:
    """Plot the reward over the steps, and the final held-out accuracy with its seeds, for each method."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    methods = comparison.methods
    size = (13, 4.5 + 0.25 * len(methods))
    figure, (reward, accuracy) = pyplot.subplots(1, 2, figsize=size, layout="constrained")
    window = min(WINDOW, *(len(run.rewards) for run in comparison.runs))
    for place, method in enumerate(methods):
        color, style = COLORS[place % len(COLORS)], STYLES[place % len(STYLES)]
        own = [run for run in comparison.runs if run.method == method.method]
        curves = [running_mean(run.rewards, window=window) for run in own]
        points = [estimate(values) for values in zip(*curves, strict=False)]  # as far as the shortest run goes
        means = [point.mean or 0.0 for point in points]
        errors = [point.standard_error or 0.0 for point in points]
        steps = range(window, window + len(points))
        reward.plot(steps, means, color=color, ls=style, lw=1.8, label=method.method)
        low, high = ([mean + sign * error for mean, error in zip(means, errors, strict=True)] for sign in (-1, 1))
        reward.fill_between(steps, low, high, color=color, alpha=0.12, lw=0)

        final = method.sampled_accuracy
        seeds = [run.sampled_accuracy for run in own]
        accuracy.plot(seeds, [place + 0.2] * len(seeds), "o", color=color, ms=4, alpha=0.5)
        accuracy.errorbar(final.mean, place, xerr=final.standard_error, fmt="D", color=color, ms=7, capsize=5, lw=2)
    reward.axhline(comparison.threshold, color="gray", lw=0.8, ls=":")
    reward.set(
        title="Reward while training (band: one standard error over seeds)",
        xlabel="training step",
        ylabel=f"mean reward of the last {window} steps",
    )
    accuracy.set(
        title="Held-out accuracy after training",
        xlabel="share of right sampled answers (bar: one standard error, dots: seeds)",
        yticks=range(len(methods)),
        yticklabels=[method.method for method in methods],
        ylim=(len(methods) - 0.5, -0.5),
    )
    for axis in (reward, accuracy):
        axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4, handlelength=4)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def show(comparison: Comparison, console: Console) -> None:
    """Print the tables and notes."""
    for head, *rows in tables(comparison):
        table = Table()
        for column in head:
            table.add_column(escape(column))
        for row in rows:
            table.add_row(*map(escape, row))
        console.print(table)
    for note in notes(comparison):
        console.print(note, markup=False, highlight=False)


def write(comparison: Comparison, folder: Path) -> None:
    """Write `comparison.json`, `comparison.md` and `comparison.png`."""
    record = asdict(comparison)
    for run in record["runs"]:
        del run["settings"]  # they are in its folder
    try:
        (folder / "comparison.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        (folder / "comparison.md").write_text(markdown(comparison), encoding="utf-8")
        draw(comparison, folder / "comparison.png")
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error}. Free space or mend the permissions.") from error


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="delta-compare",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""\
Compare the runs of a sweep: final held-out accuracy, reward and steps to a reward for each method over its seeds, and
paired differences to a baseline. Writes comparison.json, comparison.md and comparison.png into the first FOLDER.

A run is a folder with a config.yaml, anywhere below FOLDER, such as runs/compare/dapo/seed1. Its method is the `label`
in config.yaml, else the name of the folder above it. Runs that are not complete are left out and listed.""",
        epilog="example: delta-compare runs/compare --baseline dapo --threshold 0.8",
    )
    parser.add_argument("folders", metavar="FOLDER", nargs="+", type=Path, help="where the runs are")
    parser.add_argument("--threshold", type=float, default=0.8, help="reward to reach (default: %(default)s)")
    parser.add_argument("--baseline", metavar="METHOD", help="method to subtract (default: dapo, if there is one)")
    options = parser.parse_args(arguments)
    with errors_explained():
        comparison = compare(options.folders, threshold=options.threshold, baseline=options.baseline)
        write(comparison, options.folders[0])
    console = Console(width=None if sys.stdout.isatty() else 140)  # a pipe has no width: do not fold the table for it
    show(comparison, console)
    console.print(f"comparison.json, comparison.md, comparison.png: in {options.folders[0]}", markup=False)


if __name__ == "__main__":
    main()
