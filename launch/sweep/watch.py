"""The members of a sweep while they run: a table that changes, or, without a terminal, a line for each change."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table

from launch.sweep.state import Status

Statuses = Mapping[str, Status]


def table_of(statuses: Statuses) -> Table:
    """A line for each member."""
    table = Table()
    for column in ("member", "state", "step"):
        table.add_column(column, overflow="fold")
    for name, status in statuses.items():
        table.add_row(name, status.text, f"{status.step}/{status.steps or '?'}")
    return table


class View(Protocol):
    """Whoever is shown how the members are doing."""

    def show(self, statuses: Statuses) -> None:
        """Now."""
        ...


class _Lines:
    """Told what has changed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told: dict[str, str] = {}

    def show(self, statuses: Statuses) -> None:
        for name, status in statuses.items():
            if self._told.get(name) != status.text:
                self._console.print(f"{time.strftime('%H:%M:%S')} {name}: {status.text}", markup=False)
                self._told[name] = status.text


class _Table:
    """Shown everything, in place."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def show(self, statuses: Statuses) -> None:
        self._live.update(table_of(statuses), refresh=True)


@contextlib.contextmanager
def view_on(console: Console) -> Iterator[View]:
    """A view while the block runs."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield _Table(live)
