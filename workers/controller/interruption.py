"""Ctrl-C and SIGTERM: the first ends the run in order, with a checkpoint; the second ends it at once."""

import asyncio
import contextlib
import signal
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


class Interrupted(Exception):
    """The run was asked to end; what could be abandoned was abandoned."""


class Interruption:
    """A request to end the run, made by a signal."""

    def __init__(self) -> None:
        """No request yet."""
        self._requested = asyncio.Event()
        self.signal: signal.Signals | None = None

    @contextlib.contextmanager
    def listen(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM inside the block; a second signal cancels the task that entered it."""
        loop = asyncio.get_running_loop()
        main = asyncio.current_task()

        def handle(number: signal.Signals) -> None:
            if self._requested.is_set() and main is not None:
                main.cancel()
            self.signal = number
            self._requested.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, handle, number)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
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
