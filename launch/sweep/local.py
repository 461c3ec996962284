"""Members of a sweep on this machine, one after another, each in a process of its own.

Of its own, because what a run leaves in a process (Ray's token and addresses, torch's groups and caches) is no business
of the next one, and because a member that crashes must not take the others with it.
"""

import contextlib
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import FrameType

from delta.errors import ConfigError
from launch.command import EXIT_INTERRUPTED, EXIT_PREEMPTED
from launch.submit.config import SubmittedConfig
from launch.sweep.launcher import Planned, SweepLauncher
from launch.sweep.reason import reason_in
from launch.sweep.record import Event, Member, What
from launch.sweep.state import State, Status
from workers.files import storage_errors
from workers.signals import SIGNALS, handlers_kept


class LocalLauncher(SweepLauncher):
    """One member after another (`hydra/launcher=local`)."""

    def check(self, left: Sequence[Planned], statuses: Mapping[str, Status]) -> None:
        """Also that the members are to run here, and do not already."""
        SweepLauncher.check(self, left, statuses)
        for plan in left:
            name, status = plan.member.name, statuses[plan.member.name]
            if isinstance(plan.config.cluster, SubmittedConfig):
                kind = plan.config.cluster.kind_of_cluster
                raise ConfigError(f"{name} would run here, and cluster={kind} is not: add hydra/launcher={kind}.")
            if status.state is State.running:
                raise ConfigError(f"{name} is {status.text}. Wait for it, or end it, and give the command again.")

    def run(self, left: Sequence[Planned]) -> None:
        """Run each member to its end; a signal is passed on to the one under way, and ends the sweep."""
        for place, plan in enumerate(left, start=1):
            member = plan.member
            self.console.say(f"\nmember {place} of {len(left)}: {member.name} in {member.run_dir}")
            with PassedOn() as signals:
                process = Process(member, self.log_of(member), signals)
                self.log.add(Event(member=member.name, what=What.started, pid=process.pid, host=socket.gethostname()))
                code, reason = process.follow()
            self.log.add(Event(member=member.name, what=What.ended, code=code, reason=reason))
            if signals.first is not None:
                self.console.say(f"\nthe sweep was ended by {signals.first.name}; the same command goes on.")
                raise SystemExit(EXIT_INTERRUPTED if signals.first is signal.SIGINT else EXIT_PREEMPTED)


class PassedOn:
    """While the block runs, signals to this process are passed on to another one."""

    def __enter__(self) -> "PassedOn":
        """Listen; until there is another process, they are kept for it."""
        self.first: signal.Signals | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._before = contextlib.ExitStack()
        self._before.enter_context(handlers_kept())
        for number in SIGNALS:
            signal.signal(number, self._pass_on)
        return self

    def __exit__(self, *error: object) -> None:
        """Listen no longer."""
        self._before.close()

    def to(self, process: "subprocess.Popen[bytes]") -> None:
        """From now on to this one."""
        self._process = process
        if self.first is not None:
            process.send_signal(self.first)

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        self.first = self.first or signal.Signals(number)
        if self._process is not None:
            self._process.send_signal(number)
        # To the terminal itself: this may have interrupted a write to `sys.stdout`.
        os.write(sys.stderr.fileno(), f"\n{signal.Signals(number).name} is passed on to the member.\n".encode())


class Process:
    """A run whose output goes to the terminal and to a log."""

    def __init__(self, member: Member, log: Path, signals: PassedOn) -> None:
        """Start it."""
        command = [sys.executable, "-m", "launch.train", *member.overrides]
        with storage_errors(f"cannot write {log}", remedy="Choose another sweep=FOLDER."):
            log.parent.mkdir(parents=True, exist_ok=True)
            self._log = log.open("ab", buffering=0)
            self._log.write(f"--- {datetime.now():%Y-%m-%d %H:%M:%S} {shlex.join(command)}\n".encode())
        self._begin = self._log.tell()
        self._path = log
        # In a session of its own, so that Ctrl-C reaches it once: a second signal would end it without a checkpoint.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        signals.to(self._process)
        self.pid = self._process.pid

    def follow(self) -> tuple[int, str]:
        """Show what it says until it ends: exit code, and the reason of a failure."""
        with self._log:
            for piece in self._output():
                self._log.write(piece)
                sys.stdout.buffer.write(piece)
                sys.stdout.buffer.flush()
            code = self._process.wait()
        return code, self._reason(code)

    def _output(self) -> Iterator[bytes]:
        """What it writes; processes that it left behind may hold the other end, and are not waited for."""
        assert self._process.stdout is not None
        source = self._process.stdout.fileno()
        while True:
            ended = self._process.poll() is not None
            if select.select([source], [], [], 0.0 if ended else 0.2)[0]:
                if not (piece := os.read(source, 65536)):
                    return
                yield piece
            elif ended:
                return

    def _reason(self, code: int) -> str:
        """The error that it ended with, else its last line; a preemption needs none."""
        if code in (0, EXIT_PREEMPTED, EXIT_INTERRUPTED):
            return ""
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return reason_in(self._path, since=self._begin) or f"it ended with code {code}"
