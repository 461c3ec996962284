"""The training run as a child of the head's program, which passes it the one signal that counts."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

END_S = 20.0
"""How long after its grace the driver may take to end its processes, before it is killed."""


def _listen() -> None:
    """In the new process: SIGUSR1 and Ctrl-C arrive; SIGTERM, which Slurm sends to everybody as often as it likes, not.

    To the run a second signal means to end at once, without a checkpoint.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGTERM})


class Driver:
    """`delta-train`, running."""

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str], grace_s: float) -> None:
        """Start it.

        Args:
            command: `delta-train` and its overrides.
            environment: Beside this process's.
            grace_s: How long it may take to end once it was told to; it knows that itself.
        """
        program = [sys.executable, "-m", "launch.train"] if command[0] == "delta-train" else [command[0]]
        self._process = subprocess.Popen(
            [*program, *command[1:]],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            preexec_fn=_listen,
        )
        self._grace_s = grace_s
        self._told_at: float | None = None

    @property
    def code(self) -> int | None:
        """Exit code, negative after a signal; None while it runs."""
        return self._process.poll()

    @property
    def was_told(self) -> bool:
        """Whether it knows that it is to end."""
        return self._told_at is not None

    def tell(self, *, already: bool) -> None:
        """Tell it to end, the first time; later, kill it if its time is over.

        Args:
            already: It has got its signal from somebody else.
        """
        if self._told_at is None:
            self._told_at = time.monotonic()
            if not already:
                self._process.send_signal(signal.SIGUSR1)
        elif time.monotonic() > self._told_at + self._grace_s + END_S:
            self._process.kill()
