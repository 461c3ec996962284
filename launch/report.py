"""What is left of a run: `summary.json`, `curves.png`, and the closing words on the terminal.

Everything is computed from the files of the run folder; `delta-report run=FOLDER` shows it again.
"""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from workers.controller.metrics import JsonLines
from workers.controller.starting_point import SUMMARY
from workers.controller.trajectory import versions
from workers.files import storage_errors, write_whole

PHASES = ("generate", "score", "old_pass", "credit", "update", "sync")
WARM_UP_STEPS = 3
"""First steps of a process are slower; they are left out of the medians of runs that have more."""

Row = dict[str, Any]


def write(run_dir: Path, *, seed: int) -> None:
    """Write `curves.png` and, last, `summary.json`, which says that the run is finished.

    Raises:
        StorageError: They cannot be written.
    """
    rows = JsonLines(run_dir / "metrics.jsonl").rows()
    evaluations = JsonLines(run_dir / "evaluations.jsonl").rows()
    summary = summarize(rows, evaluations, seed=seed)
    with storage_errors(f"cannot write the summary of {run_dir}", remedy="Free space, then start the command again."):
        draw(rows, evaluations, run_dir / "curves.png")
        write_whole(run_dir / SUMMARY, json.dumps(summary, indent=1) + "\n")


def summarize(rows: Sequence[Row], evaluations: Sequence[Row], *, seed: int) -> Row:
    """The numbers of a run.

    Args:
        rows: Of `metrics.jsonl`.
        evaluations: Of `evaluations.jsonl`, the first and the last of which are before and after.
        seed: Of the run.

    Returns:
        accuracy_before and accuracy_after (greedy, held-out) with 95 % intervals, the same sampled, the share of
        reasoned answers, steps, median_step_s and the medians of the phases in seconds (null where no step was made),
        seed and versions.
    """
    before, after = evaluations[0], evaluations[-1]
    timed = rows[WARM_UP_STEPS:] if len(rows) > WARM_UP_STEPS else rows
    summary: Row = {}
    for when, evaluation in (("before", before), ("after", after)):
        summary |= {
            f"accuracy_{when}": evaluation["accuracy"],
            f"accuracy_{when}_interval": evaluation["accuracy_interval"],
            f"sampled_accuracy_{when}": evaluation["sampled_accuracy"],
            f"sampled_accuracy_{when}_interval": evaluation["sampled_accuracy_interval"],
            f"reasoned_share_{when}": evaluation["reasoned_share"],
        }
    return summary | {
        "held_out_problems": after["problems"],
        "steps": int(after["step"]),
        "median_step_s": _median(timed, "time/step_s"),
        "phases": {f"{name}_s": _median(timed, f"time/{name}_s") for name in PHASES},
        "seed": seed,
        "versions": versions(),
    }


def _median(rows: Sequence[Row], name: str) -> float | None:
    return statistics.median(row[name] for row in rows) if rows else None


def draw(rows: Sequence[Row], evaluations: Sequence[Row], path: Path) -> None:
    """Plot reward, held-out accuracy, length, entropy and seconds per phase over the steps."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    steps = [row["step"] for row in rows]
    measured = [evaluation["step"] for evaluation in evaluations]
    figure, axes = pyplot.subplots(2, 3, figsize=(13, 7), layout="constrained")
    reward, accuracy, length, entropy, mismatch, phases = axes.flat

    reward.plot(steps, [row["reward/mean"] for row in rows], lw=1)
    reward.set(title="reward of training rollouts", ylim=(0, 1))

    for name, label in (("accuracy", "greedy"), ("sampled_accuracy", "sampled")):
        values = [evaluation[name] for evaluation in evaluations]
        spread = [evaluation[f"{name}_interval"] for evaluation in evaluations]
        accuracy.plot(measured, values, marker="o", ms=3, label=label)
        accuracy.fill_between(measured, [low for low, _ in spread], [high for _, high in spread], alpha=0.2)
    shares = [evaluation["reasoned_share"] for evaluation in evaluations]
    accuracy.plot(measured, shares, ls=":", label="reasoned share")
    accuracy.set(title="held-out problems (95 % intervals)", ylim=(0, 1.02))
    accuracy.legend(loc="lower right")

    length.plot(steps, [row["rollout/length_mean"] for row in rows], lw=1)
    length.set(title="tokens per rollout")
    entropy.plot(steps, [row["policy/entropy"] for row in rows], lw=1)
    entropy.set(title="entropy (nats per token)")
    mismatch.plot(steps, [row["policy/mismatch_max"] for row in rows], lw=1)
    mismatch.set(title="largest engine-learner difference (nats)", yscale="log")
    phases.stackplot(steps, [[row[f"time/{name}_s"] for row in rows] for name in PHASES], labels=PHASES)
    phases.set(title="seconds per step, by phase")
    phases.legend(loc="upper right", fontsize="small")
    for axis in axes.flat:
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def show(run_dir: Path, console: Console) -> None:
    """Print the summary, a few problems with the answers before and after, and where the files are."""
    summary = json.loads((run_dir / SUMMARY).read_text(encoding="utf-8"))
    evaluations = JsonLines(run_dir / "evaluations.jsonl").rows()
    table = Table(
        title=f"{summary['held_out_problems']} held-out problems, {summary['steps']} steps", title_justify="left"
    )
    for column in ("", "before", "after"):
        table.add_column(column)
    for name, key in (("greedy accuracy", "accuracy"), ("sampled accuracy", "sampled_accuracy")):
        cells = []
        for when in ("before", "after"):
            low, high = summary[f"{key}_{when}_interval"]
            cells.append(f"{summary[f'{key}_{when}']:.3f}  [{low:.3f}, {high:.3f}]")
        table.add_row(name, *cells)
    table.add_row("reasoned share", *(f"{summary[f'reasoned_share_{when}']:.3f}" for when in ("before", "after")))
    console.print(table)
    for before, after in _examples(evaluations[0]["answers"], evaluations[-1]["answers"]):
        console.print(f"  {_one_line(before['prompt'])}  (expected {before['expected']})", markup=False)
        for when, answer in (("before", before), ("after", after)):
            mark = "right" if answer["correct"] else "wrong"
            console.print(f"    {when:<6} {mark}: {_one_line(answer['response'])}", markup=False)
    if faults := JsonLines(run_dir / "faults.jsonl").rows():
        console.print(_faults_in_a_line(faults), style="yellow", markup=False)
    median = summary["median_step_s"]
    console.print(f"median step {median:.2f} s; files in {run_dir}:" if median else f"files in {run_dir}:")
    for name, what in (
        ("export", "the trained policy in Hugging Face format"),
        ("curves.png", "plots"),
        ("summary.json", "these numbers"),
        ("metrics.jsonl", "one row per step"),
        ("evaluations.jsonl", "held-out accuracy, and every answer"),
        ("config.yaml", "the configuration"),
        ("checkpoints", "to go on from"),
    ):
        console.print(f"  {name:<18} {what}")


def _faults_in_a_line(faults: Sequence[Row]) -> str:
    """Who, where and what was done; the causes are in the file."""
    told = [f"{row['who']} in {row['phase']} after step {row['step']}: {row['action']}" for row in faults[-3:]]
    earlier = f"{len(faults) - 3} earlier; " if len(faults) > 3 else ""
    return f"faults: {len(faults)} ({earlier}{'; '.join(told)}), see faults.jsonl"


def _examples(before: Sequence[Row], after: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Two problems that became right and one that is wrong, where there are such."""
    pairs = list(zip(before, after, strict=True))
    learned = [pair for pair in pairs if not pair[0]["correct"] and pair[1]["correct"]]
    wrong = [pair for pair in pairs if not pair[1]["correct"]]
    return learned[:2] + wrong[:1]


def _one_line(text: str, *, width: int = 100) -> str:
    line = text.replace("\n", " ⏎ ")
    return line if len(line) <= width else f"{line[: width - 3]}..."
