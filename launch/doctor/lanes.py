"""Does examinations in processes of their own: whatever a check runs into is a finding, and the others go on.

A library may raise anything, abort its process or wait for ever; here each of these ends one check.
"""

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path

from launch.doctor.check import Check, Examination, Finding, Status, skipped
from launch.doctor.place import is_submitted
from launch.submit.kuberay.config import KubeRayConfig
from launch.submit.plan import unseen
from workers.controller.config import TrainConfig
from workers.signals import SIGNALS

OUTPUT_LINES = 15
"""Of what a check wrote before it was lost; the end of a traceback."""
POLL_S = 0.2
END_S = 5.0
"""How long a process may take to be gone."""

_context = get_context("fork")  # what all checks need is imported already


class Lane:
    """Examinations one after the other in a process; where that is lost, another one goes on with the rest."""

    def __init__(self, examinations: Sequence[Examination], config: TrainConfig, output: Path) -> None:
        """Begin.

        Args:
            examinations: At least one.
            config: The run.
            output: File for what the checks write.
        """
        self._waiting = deque(examinations)
        self._config = config
        self._output = output
        self._start()

    @property
    def running(self) -> str:
        """The name of the examination that is being done; empty when all are."""
        return self._waiting[0].name if self._waiting else ""

    @property
    def handles(self) -> tuple[Connection, int]:
        """What to wait for."""
        return self._connection, self._process.sentinel

    def take(self) -> Check | None:
        """The next check, if there is one by now, or what became of it."""
        examination = self._waiting[0]
        trouble = ""
        try:
            if self._connection.poll():
                check: Check = self._connection.recv()
                self._waiting.popleft()
                self._began = time.monotonic()
                return check
            if not self._process.is_alive():
                trouble = "crashed"
        except EOFError:
            trouble = "crashed"
        if not trouble and time.monotonic() - self._began > examination.timeout_s:
            trouble = f"no answer in {examination.timeout_s:.0f} s"
        return self._lost(trouble) if trouble else None

    def end(self) -> None:
        """Kill the process and what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        self._process.join(END_S)

    def _lost(self, trouble: str) -> Check:
        self._process.join(0 if trouble != "crashed" else END_S)
        code = self._process.exitcode
        self.end()
        lines = [line for line in self._output.read_text(errors="replace").splitlines() if line.strip()]
        parts = [trouble, signal.Signals(-code).name if code and code < 0 else "", *lines[-1:]]
        finding = Finding(
            Status.failed,
            ": ".join(part for part in parts if part),
            "an answer",
            "Its output, below, says more. Where a library is at fault, install the versions of the lock.",
            output="\n".join(lines[-OUTPUT_LINES:]),
        )
        check = Check(self._waiting.popleft().name, finding, time.monotonic() - self._began)
        if self._waiting:
            self._start()
        return check

    def _start(self) -> None:
        self._output.touch()
        self._connection, theirs = _context.Pipe(duplex=False)
        work = (tuple(self._waiting), self._config, theirs, self._output)
        self._process = _context.Process(target=_examine, args=work)
        self._process.start()
        self._pid = int(self._process.pid or 0)
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            os.setpgid(self._pid, self._pid)  # here too: it may be ended before it gets to it
        theirs.close()
        self._began = time.monotonic()


def _examine(examinations: Sequence[Examination], config: TrainConfig, connection: Connection, output: Path) -> None:
    """The process of a lane; a group of its own, so that it can be ended with all that it starts."""
    os.setpgid(0, 0)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    file = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    for examination in examinations:
        os.ftruncate(file, 0)
        began = time.monotonic()
        finding = examination.examine(config)
        connection.send(Check(examination.name, finding, time.monotonic() - began))


class Round:
    """All examinations of one configuration."""

    def __init__(self, lanes: Sequence[Sequence[Examination]], config: TrainConfig, *, fast: bool) -> None:
        """Sort out those that do not apply here.

        Args:
            lanes: Examinations of a lane are done one after the other, lanes side by side.
            config: The run.
            fast: Leave out those that start processes.
        """
        self._config = config
        self._names = [examination.name for lane in lanes for examination in lane]
        self._skipped = [
            Check(examination.name, skipped(reason))
            for lane in lanes
            for examination in lane
            if (reason := reason_to_skip(examination, config, fast=fast))
        ]
        out = {check.name for check in self._skipped}
        todo = [tuple(examination for examination in lane if examination.name not in out) for lane in lanes]
        self._todo = [lane for lane in todo if lane]
        self._lanes: list[Lane] = []

    @property
    def total(self) -> int:
        """How many are done."""
        return sum(map(len, self._todo))

    @property
    def running(self) -> list[str]:
        """Names of those that are being done."""
        return [lane.running for lane in self._lanes if lane.running]

    def checks(self) -> Iterator[Check]:
        """Checks as they end, those that are skipped first; nothing is left running."""
        yield from self._skipped
        with tempfile.TemporaryDirectory(prefix="delta-doctor-") as folder:
            try:
                for number, examinations in enumerate(self._todo):
                    self._lanes.append(Lane(examinations, self._config, Path(folder) / str(number)))
                while busy := [lane for lane in self._lanes if lane.running]:
                    wait([handle for lane in busy for handle in lane.handles], POLL_S)
                    yield from (check for lane in busy if (check := lane.take()) is not None)
            finally:
                for lane in self._lanes:
                    lane.end()

    def in_order(self, checks: Sequence[Check]) -> list[Check]:
        """As they are listed in the catalogue."""
        return sorted(checks, key=lambda check: self._names.index(check.name))


def reason_to_skip(examination: Examination, config: TrainConfig, *, fast: bool) -> str:
    """Why it does not apply; empty if it does."""
    if examination.of_node and is_submitted(config):
        return "the run will be on the cluster's nodes; start delta-doctor in a job to examine one"
    in_pods = isinstance(config.cluster, KubeRayConfig) and is_submitted(config)
    if in_pods and (examination.of_storage or (examination.of_inputs and unseen(config))):
        return "not here; checked when the run starts"
    if examination.starts_processes and fast:
        return "--fast: it starts processes"
    return ""
