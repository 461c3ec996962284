"""Verdicts on programs: each in a fresh sandbox, its tests and their expected values outside of it.

Function tests run in a second sandbox, which calls the program's functions (`examiner`, `candidate`). Programs
that read standard input get one case after another, and what they print is compared here.
"""

import json
import marshal
import os
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from delta.types import FunctionTests, Outcome, StdioTests, Verdict
from workers.verifier.code import bubblewrap
from workers.verifier.code.config import CodeConfig, SandboxMode
from workers.verifier.code.output import same_output
from workers.verifier.code.sandbox import CANDIDATE, EXAMINER, Sandbox, SandboxError, receive_exactly, resolve

SAMPLE_S = 0.02
"""Between two looks at a sandbox's memory."""
ANSWER_S = 5.0
"""A tests process that takes longer for its housekeeping is replaced."""
_TESTS_MEMORY = 2 << 30
"""Of the process that runs the tests: room for the values of a program several times over."""
_EXAMINER_LIMITS = {"RLIMIT_AS": _TESTS_MEMORY, "RLIMIT_CORE": 0, "RLIMIT_NOFILE": 64, "RLIMIT_FSIZE": 16 << 20}
_STACK = 64 << 20
_CPU_SIGNALS = {128 + 24}
_KILLED = 128 + 9
_MAX_STATUS = 1_000


class ProgramStopped(Exception):
    """The judge ended the program; says why."""

    def __init__(self, outcome: Outcome, detail: str) -> None:
        """With the verdict's outcome and detail."""
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail


class CodeJudge:
    """Judges programs one after another; one slot, blocking, for one caller at a time.

    The sandbox of the next program starts while the present one runs. A program starts only when every process of its
    predecessor is gone. Everything ends with `close`, and with this process however it ends.
    """

    def __init__(self, config: CodeConfig | None = None) -> None:
        """Find out what kind of sandbox works and start the first; raises SandboxError where none does."""
        self.config = config or CodeConfig()
        self.mode: SandboxMode = resolve(self.config.sandbox)
        """What the sandboxes really are."""
        uids = bubblewrap.private_uids() if os.getuid() == 0 else (None, None, None)
        self._program_uids, self._tests_uid = list(uids[:2]), uids[2]
        self._spare: Sandbox | None = None
        self._examiner: Sandbox | None = None
        self._start_spare()

    def __enter__(self) -> "CodeJudge":
        """Return the judge."""
        return self

    def __exit__(self, *exception: object) -> None:
        """End it."""
        self.close()

    def close(self) -> None:
        """End all sandboxes."""
        for sandbox in (self._spare, self._examiner):
            if sandbox is not None:
                sandbox.close()
        self._spare = self._examiner = None

    def judge(self, program: str, tests: FunctionTests | StdioTests) -> Verdict:
        """Run a program against tests; reward 1 only when it passes all of them."""
        started = time.perf_counter()
        outcome, detail = self._outcome(program, tests)
        seconds = time.perf_counter() - started
        return Verdict(outcome, float(outcome is Outcome.correct), detail[:500], seconds)

    def ready(self) -> None:
        """Return once a program could start at once."""
        if self._spare is None:
            self._start_spare()
        if self._spare is not None:
            self._spare.wait_until_ready()
        self._tests_process()

    def _outcome(self, program: str, tests: FunctionTests | StdioTests) -> tuple[Outcome, str]:
        if not program.strip():
            return Outcome.unparsable, "there is no program"
        if len(program) > self.config.max_program_kib << 10:
            return Outcome.unparsable, f"the program is longer than {self.config.max_program_kib} KiB"
        if isinstance(tests, StdioTests) and not tests.cases:
            return Outcome.error, "there are no test cases"
        try:
            with self._sandbox() as sandbox:
                try:
                    if isinstance(tests, FunctionTests):
                        return self._examine(sandbox, program, tests)
                    return self._run_cases(sandbox, program, tests)
                except ProgramStopped as stopped:
                    return stopped.outcome, stopped.detail
        except SandboxError as error:
            return Outcome.error, str(error)

    # Sandboxes

    @contextmanager
    def _sandbox(self) -> Iterator[Sandbox]:
        """A ready sandbox, gone at the end; the next one is on its way then."""
        sandbox = self._take_spare()
        try:
            with suppress(SandboxError):  # of no concern to this program; the next one tries again
                self._start_spare()
            yield sandbox
        finally:
            sandbox.close()

    def _take_spare(self) -> Sandbox:
        for last_try in (False, True):
            if self._spare is None:
                self._start_spare()
            sandbox, self._spare = self._spare, None
            assert sandbox is not None
            try:
                sandbox.wait_until_ready()
            except SandboxError:
                sandbox.close()
                if last_try:
                    raise
            else:
                return sandbox
        raise AssertionError

    def _start_spare(self) -> None:
        """The user ids take turns, so that what is left of a program's limits never hits the next sandbox."""
        self._program_uids.reverse()
        self._spare = Sandbox(
            self.mode,
            CANDIDATE,
            uid=self._program_uids[0],
            limits=self._program_limits(),
            tmp_mib=self.config.max_file_mib,
        )

    def _program_limits(self) -> dict[str, int]:
        config = self.config
        processes = config.max_processes
        if self.mode is SandboxMode.process and os.getuid() != 0:
            processes += _threads_of(os.getuid())
        return {
            "RLIMIT_CPU": config.cpu_s,
            "RLIMIT_AS": config.memory_mib << 20,
            "RLIMIT_NPROC": processes,
            "RLIMIT_FSIZE": config.max_file_mib << 20,
            "RLIMIT_NOFILE": 64,
            "RLIMIT_CORE": 0,
            "RLIMIT_STACK": _STACK,
        }

    def _tests_process(self) -> Sandbox:
        if self._examiner is not None and not self._examiner.is_alive:
            self._drop_examiner()
        if self._examiner is None:
            self._examiner = Sandbox(self.mode, EXAMINER, uid=self._tests_uid, limits=_EXAMINER_LIMITS, tmp_mib=16)
        try:
            self._examiner.wait_until_ready()
        except SandboxError:
            self._drop_examiner()
            raise
        self._examiner.channel.settimeout(ANSWER_S)
        return self._examiner

    def _drop_examiner(self) -> None:
        if self._examiner is not None:
            self._examiner.close()
            self._examiner = None

    def _check(self, sandbox: Sandbox) -> None:
        """Stop a program that has grown too large."""
        memory, processes = sandbox.usage()
        if memory > self.config.memory_mib << 20:
            raise ProgramStopped(Outcome.wrong, f"more than {self.config.memory_mib} MiB of memory")
        if processes > self.config.max_processes + 3:  # bubblewrap's own
            raise ProgramStopped(Outcome.wrong, "too many processes or files")

    def _await(self, sandbox: Sandbox, source: socket.socket, *, deadline: float, limit_s: float) -> None:
        """Return when `source` has something to say; watch the program meanwhile."""
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise ProgramStopped(Outcome.timeout, f"still running after {limit_s:g} s")
            if select.select([source], [], [], min(left, SAMPLE_S))[0]:
                return
            self._check(sandbox)

    # Function tests

    def _examine(self, sandbox: Sandbox, program: str, tests: FunctionTests) -> tuple[Outcome, str]:
        examiner = self._tests_process()
        verdict_end, written_end = os.pipe()
        os.set_blocking(verdict_end, False)
        started = time.monotonic()
        try:
            try:
                self._send_job(examiner.channel, sandbox.channel.fileno(), written_end, program, tests)
            finally:
                os.close(written_end)
            deadline, limit_s = started + self.config.timeout_s, self.config.timeout_s
            self._await(sandbox, examiner.channel, deadline=deadline, limit_s=limit_s)
            if not self._is_done(examiner):
                raise SandboxError("the tests' process died")
            finding = b""
            with suppress(BlockingIOError):
                finding = os.read(verdict_end, 5000)
        except ProgramStopped:
            self._cancel(examiner)
            raise
        except OSError:
            self._drop_examiner()
            raise SandboxError("the tests' process is gone") from None
        except BaseException:  # also Ctrl-C: it must not take this job's end for that of the next
            self._drop_examiner()
            raise
        finally:
            os.close(verdict_end)
        return self._explained(sandbox, *self._parsed(finding), seconds=time.monotonic() - started)

    def _send_job(
        self, control: socket.socket, program_fd: int, verdict_fd: int, program: str, tests: FunctionTests
    ) -> None:
        seconds = int(self.config.timeout_s) + 2
        job = marshal.dumps(
            {
                "program": program,
                "tests": tests.source,
                "entry_point": tests.entry_point,
                "max_bytes": self.config.max_answer_mib << 20,
                "limits": {"RLIMIT_CPU": seconds, "RLIMIT_AS": _TESTS_MEMORY},
            }
        )
        socket.send_fds(control, [len(job).to_bytes(8, "little")], [program_fd, verdict_fd])
        control.sendall(job)

    def _cancel(self, examiner: Sandbox) -> None:
        """Have the tests' process end the job, or end it altogether."""
        try:
            examiner.channel.sendall(b"K")
        except OSError:
            self._drop_examiner()
        else:
            self._is_done(examiner)

    def _is_done(self, examiner: Sandbox) -> bool:
        """Read the end of the job; a tests' process that does not tell it is ended."""
        try:
            done = receive_exactly(examiner.channel, 1, deadline=time.monotonic() + ANSWER_S) == b"D"
        except (OSError, EOFError):
            done = False
        if not done:
            self._drop_examiner()
        return done

    @staticmethod
    def _parsed(finding: bytes) -> tuple[Outcome, str]:
        if not finding:
            return Outcome.wrong, "the tests' process was killed: the program's values are too much for it"
        with suppress(ValueError, TypeError):
            name, detail = json.loads(finding)
            return Outcome(name), str(detail)
        return Outcome.error, "the tests' process talks nonsense"

    def _explained(self, sandbox: Sandbox, outcome: Outcome, detail: str, *, seconds: float) -> tuple[Outcome, str]:
        """A program that ended by itself may have been ended by its processor limit."""
        if outcome is Outcome.wrong and detail == "the program ended" and seconds > 0.5 * self.config.cpu_s:
            code = sandbox.exit_code(timeout_s=0.5)
            if code in _CPU_SIGNALS or (code == _KILLED and seconds >= self.config.cpu_s):
                return Outcome.timeout, f"more than {self.config.cpu_s} s of processor time"
        return outcome, detail

    # Standard input and output

    def _run_cases(self, sandbox: Sandbox, program: str, tests: StdioTests) -> tuple[Outcome, str]:
        body = marshal.dumps(("cases", program))
        channel = sandbox.channel
        started = time.monotonic()
        deadline = started + self.config.timeout_s
        channel.setblocking(False)
        _send(channel, len(body).to_bytes(4, "little") + body, deadline=deadline)
        status = self._status(sandbox, deadline=deadline, limit_s=self.config.timeout_s)
        if status[0] == "unparsable":
            return Outcome.unparsable, str(status[1])[:300]
        for number, case in enumerate(tests.cases, start=1):
            limit_s = min(self.config.test_timeout_s, deadline - time.monotonic())
            outcome, detail = self._run_case(sandbox, case.stdin, case.stdout, limit_s=limit_s)
            if outcome is not Outcome.correct:
                return outcome, f"case {number} of {len(tests.cases)}: {detail}"
        return Outcome.correct, ""

    def _run_case(self, sandbox: Sandbox, given: str, expected: str, *, limit_s: float) -> tuple[Outcome, str]:
        """One case: files in memory serve as standard input and output."""
        stdin, stdout = os.memfd_create("stdin"), os.memfd_create("stdout")
        try:
            _write_all(stdin, given.encode("utf-8", "surrogatepass"))
            os.lseek(stdin, 0, os.SEEK_SET)
            try:
                socket.send_fds(sandbox.channel, [b"C"], [stdin, stdout])
            except OSError:
                return Outcome.wrong, "the program has ended its sandbox"
            status = self._status(sandbox, deadline=time.monotonic() + limit_s, limit_s=limit_s)
            code = os.waitstatus_to_exitcode(status[1])
            if code in (-24, -9):
                return Outcome.timeout, f"more than {self.config.cpu_s} s of processor time"
            if code != 0:
                return Outcome.wrong, f"exit code {code}"
            if os.fstat(stdout).st_size > self.config.max_output_mib << 20:
                return Outcome.wrong, f"more than {self.config.max_output_mib} MiB of output"
            printed = os.pread(stdout, (self.config.max_output_mib << 20) + 1, 0)
        finally:
            os.close(stdin)
            os.close(stdout)
        if same_output(printed.decode("utf-8", "replace"), expected):
            return Outcome.correct, ""
        return Outcome.wrong, "the output differs"

    def _status(self, sandbox: Sandbox, *, deadline: float, limit_s: float) -> list[Any]:
        """What the sandbox says next; it may be the program that speaks."""
        try:
            self._await(sandbox, sandbox.channel, deadline=deadline, limit_s=limit_s)
            length = int.from_bytes(receive_exactly(sandbox.channel, 4, deadline=deadline), "little")
            if length > _MAX_STATUS:
                raise ValueError
            status = json.loads(receive_exactly(sandbox.channel, length, deadline=deadline))
            if type(status) is not list or len(status) != 2 or status[0] not in ("ok", "unparsable"):
                raise ValueError
            if status[0] == "ok" and status[1] is not None:
                os.waitstatus_to_exitcode(status[1])
        except TimeoutError:
            raise ProgramStopped(Outcome.timeout, f"still running after {limit_s:g} s") from None
        except (OSError, EOFError):
            raise ProgramStopped(Outcome.wrong, "the program has ended its sandbox") from None
        except (ValueError, TypeError, OverflowError, RecursionError):
            raise ProgramStopped(Outcome.wrong, "the program talks nonsense") from None
        return status


def _threads_of(uid: int) -> int:
    """Threads that the kernel counts against this user's limit of processes."""
    count = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if entry.stat().st_uid == uid:
                    count += len(os.listdir(entry / "task"))
    return count


def _send(channel: socket.socket, data: bytes, *, deadline: float) -> None:
    """Write to a process that may not read."""
    view = memoryview(data)
    while view:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([], [channel], [], left)[1]:
            raise ProgramStopped(Outcome.timeout, "the program does not read")
        view = view[channel.send(view) :]


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
