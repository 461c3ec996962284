"""Signals during training: the first ends the run in order, with a checkpoint; the second ends it at once.

Ctrl-C (SIGINT) takes the time it needs. SIGTERM and SIGUSR1 come from schedulers, which kill after a while, so they
have a grace: what is not done by then is given up, and the last complete checkpoint is what stays.
"""

import asyncio
import contextlib
import signal
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from workers.signals import SIGNALS, handlers_kept

T = TypeVar("T")


class Interrupted(Exception):
    """The run was asked to end; what could be abandoned was abandoned."""


class Interruption:
    """A request to end the run, made by a signal."""

    def __init__(self, *, grace_s: float) -> None:
        """No request yet; one by a scheduler will be given `grace_s` seconds."""
        self._grace_s = grace_s
        self._requested = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self.signal: signal.Signals | None = None
        """The first one that came."""

    @property
    def requested(self) -> bool:
        """Whether the run was asked to end."""
        return self._requested.is_set()

    @contextlib.contextmanager
    def listen(self) -> Iterator[None]:
        """Handle the signals inside the block; a second one, or the end of the grace, cancels the task in it."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None

        def handle(number: signal.Signals) -> None:
            if self._requested.is_set():
                task.cancel()
                return
            self.signal = number
            self._requested.set()
            if number is not signal.SIGINT:
                self._timer = loop.call_later(self._grace_s, task.cancel)

        with handlers_kept():
            for number in SIGNALS:
                loop.add_signal_handler(number, handle, number)
            try:
                yield
            finally:
                if self._timer is not None:
                    self._timer.cancel()
                for number in SIGNALS:
                    loop.remove_signal_handler(number)

    async def abandon(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`, but give it up as soon as the run is asked to end.

        Raises:
            Interrupted: The run was asked to end first.
        """
        task = asyncio.ensure_future(work)
        request = asyncio.ensure_future(self._requested.wait())
        try:
            await asyncio.wait({task, request}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise Interrupted
            return task.result()
        finally:
            for pending in (task, request):
                pending.cancel()
            await asyncio.gather(task, request, return_exceptions=True)
