"""SIGINT, SIGTERM and SIGUSR1 where no event loop listens: while a run is prepared, and while it is cleaned up.

Inside the training loop `workers.controller.interruption` listens instead.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C; what Kubernetes, Slurm and `kill` send; what Slurm's `--signal` is usually told to send ahead of time."""


class Ended(KeyboardInterrupt):
    """A signal came while there was nothing to save; what was begun is cleaned up on the way out."""

    def __init__(self, number: signal.Signals) -> None:
        """Remember which."""
        super().__init__(number.name)
        self.signal = number


def end_on_signals() -> None:
    """From now on each of the signals raises `Ended` in the main thread, as Ctrl-C raises `KeyboardInterrupt`."""

    def end(number: int, _: FrameType | None) -> None:
        raise Ended(signal.Signals(number))

    for number in SIGNALS:
        signal.signal(number, end)


@contextlib.contextmanager
def handlers_kept() -> Iterator[None]:
    """Undo what the block does to the handlers; outside the main thread there is nothing to undo."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let the block finish whatever signals come: cleaning up takes seconds, and half of it leaves processes behind."""
    with handlers_kept():
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)
        yield
