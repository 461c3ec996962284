"""What the checks found, for people and for programs."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launch.doctor.check import Check, Status

COLORS = {Status.ok: "green", Status.warning: "yellow", Status.failed: "bold red", Status.skipped: "dim"}
PIPE_WIDTH = 160
"""Columns where the output is no terminal."""


def can_run(checks: Sequence[Check]) -> bool:
    """Whether nothing failed."""
    return all(check.finding.status is not Status.failed for check in checks)


def show(checks: Sequence[Check], console: Console) -> None:
    """A table, what was skipped, the output of checks that were lost, and one line that sums it up."""
    table = Table(show_lines=False, title_justify="left")
    for title in ("check", "", "seen", "expected", "what to do"):
        table.add_column(title, overflow="fold")
    table.add_column("s", justify="right")
    skipped: defaultdict[str, list[str]] = defaultdict(list)
    for check in checks:
        finding, color = check.finding, COLORS[check.finding.status]
        if finding.status is Status.skipped:
            skipped[finding.seen].append(check.name)
            continue
        status = f"[{color}]{finding.status.value}[/]"
        table.add_row(
            check.name, status, *map(escape, (finding.seen, finding.expected, finding.remedy)), f"{check.seconds:.1f}"
        )
    console.print(table)
    for reason, names in skipped.items():
        console.print(f"skipped: {', '.join(names)} ({reason})", style=COLORS[Status.skipped])
    for check in checks:
        if check.finding.output:
            console.print(f"\nlast output of {check.name}:", style="bold")
            console.print(check.finding.output, markup=False)
    console.print(summary(checks), style=COLORS[Status.ok if can_run(checks) else Status.failed])


def summary(checks: Sequence[Check]) -> str:
    """One line."""
    by_status = {status: [check.name for check in checks if check.finding.status is status] for status in Status}
    warnings = f" Warnings: {', '.join(names)}." if (names := by_status[Status.warning]) else ""
    if failed := by_status[Status.failed]:
        return f"This experiment cannot run like this: {', '.join(failed)}.{warnings}"
    return f"This experiment can run.{warnings}"


def as_json(checks: Sequence[Check]) -> str:
    """The same as one object: `can_run`, and `checks` with name, status, seen, expected, remedy, output, seconds."""
    rows = [
        {"name": check.name, "seconds": round(check.seconds, 3)}
        | asdict(check.finding)
        | {"status": check.finding.status.value}
        for check in checks
    ]
    return json.dumps({"can_run": can_run(checks), "checks": rows}, indent=2)
