"""Starting, watching and ending sandboxed Python processes.

A sandbox starts with nothing but a socket to us on which it receives its own code, so no path of ours is visible in it.
It is ready when it says so; until then it has seen no program.
"""

import contextlib
import functools
import json
import logging
import marshal
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from workers.verifier.code import bubblewrap
from workers.verifier.code.config import SandboxMode
from workers.verifier.code.seccomp import filter_program

START_TIMEOUT_S = 30.0
"""A sandbox that is not ready by then is a fault of the machine."""
END_TIMEOUT_S = 10.0
MAX_FILES = 20_000
"""Files in the sandbox's folder; each costs memory that its size does not show."""

CANDIDATE = (
    "candidate.foreign",
    "candidate.encoding",
    "candidate.decoding",
    "candidate.exceptions",
    "candidate.session",
    "candidate.server",
)
"""What is sent to the process of a program: every module after those that it imports."""
EXAMINER = ("examiner.channel", "examiner.remote", "examiner.values", "examiner.session", "examiner.server")
"""The same for the process of the tests."""

_CLOSE_OTHERS = """
import posix, sys
posix.closerange(3, int(sys.argv[1]))
posix.closerange(int(sys.argv[1]) + 1, 65536)
"""
_BOOTSTRAP = """
import marshal, posix, sys
fd = int(sys.argv[1])
def read(count):
    data = b""
    while len(data) < count:
        chunk = posix.read(fd, count - len(data))
        if not chunk:
            posix._exit(1)
        data += chunk
    return data
modules, limits, private = marshal.loads(read(int.from_bytes(read(4), "little")))
for name, code in modules:
    module = type(sys)(name)
    sys.modules[name] = module
    exec(code, module.__dict__)
module.main(fd, limits, private)
"""
_PYTHON_OPTIONS = ("-S", "-s", "-P", "-B", "-X", "utf8", "-W", "ignore")
_PACKAGE = "workers.verifier.code."
_PAGE = os.sysconf("SC_PAGE_SIZE")

_logger = logging.getLogger(__name__)


class SandboxError(Exception):
    """A sandbox did not start or is no longer there: never the program's fault."""


@functools.cache
def probe() -> tuple[bool, str]:
    """Whether bubblewrap works here, and if not, why; tried once per process."""
    try:
        with Sandbox(SandboxMode.bubblewrap, CANDIDATE, uid=_first_uid(), limits={}) as sandbox:
            sandbox.wait_until_ready()
            if os.getuid() == 0 and sandbox.owner() == 0:
                return False, "the sandbox still runs as root"
    except (SandboxError, OSError) as error:
        return False, str(error) or type(error).__name__
    return True, ""


def resolve(mode: SandboxMode) -> SandboxMode:
    """The mode that `auto` means here; raises SandboxError where bubblewrap is demanded and does not work."""
    if mode is SandboxMode.process:
        return mode
    works, reason = probe()
    if works:
        return SandboxMode.bubblewrap
    if mode is SandboxMode.bubblewrap:
        raise SandboxError(f"verifier.code.sandbox=bubblewrap, but bubblewrap does not work here: {reason}")
    _logger.warning(
        "bubblewrap does not work here (%s): programs run as plain processes with resource limits. They can use the "
        "network, read %s files, and see %s processes. Install bubblewrap, or allow it namespaces.",
        reason,
        "all world-readable" if os.getuid() == 0 else "all of this user's",
        "all" if os.getuid() == 0 else "(and end) this user's",
    )
    return SandboxMode.process


def _first_uid() -> int | None:
    return bubblewrap.private_uids()[0] if os.getuid() == 0 else None


@functools.cache
def _payload_modules(names: tuple[str, ...]) -> tuple[tuple[str, Any], ...]:
    sources = [Path(__file__).parent / f"{name.replace('.', '/')}.py" for name in names]
    return tuple(
        (_PACKAGE + name, compile(source.read_bytes(), f"<{name}>", "exec", optimize=1))
        for name, source in zip(names, sources, strict=True)
    )


@functools.cache
def _system_call_filter() -> bytes:
    return filter_program()


@functools.cache
def _launcher(pid: int) -> ThreadPoolExecutor:
    """The thread of this process that starts sandboxes: they end with it, not with the thread that asks for one."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"sandboxes-{pid}")


class Sandbox:
    """One sandboxed Python process and all its descendants.

    `channel` is the socket to it. Nothing of it outlives `close`, nor this process.
    """

    def __init__(
        self,
        mode: SandboxMode,
        modules: Sequence[str],
        *,
        uid: int | None,
        limits: dict[str, int],
        tmp_mib: int = 64,
    ) -> None:
        """Start the process; it gets the named modules of this package and runs `main` of the last one."""
        self._mode = mode
        self._init: int | None = None
        self._info: int | None = None
        self._is_ready = False
        self.channel, theirs = socket.socketpair()
        payload = marshal.dumps((_payload_modules(tuple(modules)), limits, mode is SandboxMode.bubblewrap))
        self._files = contextlib.ExitStack()
        try:
            start = self._start_bubblewrap if mode is SandboxMode.bubblewrap else self._start_process
            self._process = start(theirs, uid, tmp_mib)
            self.channel.sendall(len(payload).to_bytes(4, "little") + payload)
        except OSError as error:
            self.channel.close()
            if self._info is not None:
                os.close(self._info)
            raise SandboxError(f"the sandbox does not start: {error}") from error
        finally:
            theirs.close()
            self._files.close()

    def __enter__(self) -> "Sandbox":
        """Return the sandbox."""
        return self

    def __exit__(self, *exception: object) -> None:
        """End it."""
        self.close()

    def wait_until_ready(self) -> None:
        """Return once the process has said that it is ready; raises SandboxError when it does not."""
        if self._is_ready:
            if not self.is_alive:
                raise SandboxError("the sandbox has ended before its time")
            return
        try:
            self.channel.settimeout(START_TIMEOUT_S)
            length = int.from_bytes(receive_exactly(self.channel, 4), "little")
            if receive_exactly(self.channel, min(length, 100)) != b'["ready"]':
                raise SandboxError("the sandbox starts with nonsense")
            if self._info is not None:
                child = json.loads(os.read(self._info, 1000))["child-pid"]
                self._init = os.pidfd_open(child)
                self._root = child
            else:
                self._root = self._process.pid
        except (OSError, ValueError, EOFError) as error:
            raise SandboxError(f"the sandbox does not start ({type(error).__name__}, exit {self._exit()})") from error
        self.channel.settimeout(None)
        self._is_ready = True

    @property
    def is_alive(self) -> bool:
        """Whether its first process still runs."""
        return self._process.poll() is None

    def owner(self) -> int:
        """The user id of its first Python process."""
        return min(os.stat(f"/proc/{pid}").st_uid for pid in list(descendants(self._root))[1:])

    def usage(self) -> tuple[int, int]:
        """Bytes of memory (all its processes and files) and the number of its processes."""
        pages, count = 0, 0
        for pid in descendants(self._root):
            with contextlib.suppress(OSError, IndexError, ValueError):
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                count += 1
        file_bytes, files = self._disk()
        return pages * _PAGE + file_bytes, count if files <= MAX_FILES else sys.maxsize

    def _disk(self) -> tuple[int, int]:
        """Bytes and number of the files in its folder for temporary ones."""
        if self._mode is SandboxMode.bubblewrap:
            with contextlib.suppress(OSError):
                disk = os.statvfs(f"/proc/{self._root}/root{bubblewrap.FOLDER}")
                return (disk.f_blocks - disk.f_bfree) * disk.f_frsize, disk.f_files - disk.f_ffree
            return 0, 0
        size, count = 0, 0
        for folder, _, names in os.walk(self._folder):
            for name in names:
                count += 1
                with contextlib.suppress(OSError):
                    size += os.lstat(os.path.join(folder, name)).st_blocks * 512
            if count > MAX_FILES:
                break
        return size, count

    def exit_code(self, *, timeout_s: float) -> int | None:
        """The exit code of its first process, 128 and the signal's number where one ended it."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        return code if code >= 0 else 128 - code

    def close(self) -> None:
        """Kill every process of the sandbox, and return when they are gone."""
        if self._init is not None:
            # The first process of the namespace takes all others with it and is not gone before them.
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._init, signal.SIGKILL)
            select.select([self._init], [], [], END_TIMEOUT_S)
            os.close(self._init)
            self._init = None
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_TIMEOUT_S)
        self.channel.close()
        if self._info is not None:
            os.close(self._info)
            self._info = None
        if self._process.poll() is None:
            if self._mode is SandboxMode.process:  # the supervisor ends the others when it sees our end closed
                self._supervision.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(END_TIMEOUT_S)
            self._process.kill()
            self._process.wait()
        if self._mode is SandboxMode.process:
            self._supervision.close()
            shutil.rmtree(self._folder, ignore_errors=True)  # where the supervisor was killed

    def _exit(self) -> int | None:
        return self.exit_code(timeout_s=0.2)

    def _start_bubblewrap(self, theirs: socket.socket, uid: int | None, tmp_mib: int) -> "subprocess.Popen[bytes]":
        self._info, info = os.pipe()
        self._files.callback(os.close, info)
        passed = [theirs.fileno(), info]
        rules = _system_call_filter()
        seccomp = None
        if rules:
            seccomp, written = os.pipe()
            self._files.callback(os.close, seccomp)
            os.write(written, rules)
            os.close(written)
            passed.append(seccomp)
        words = bubblewrap.command(uid=uid, tmp_mib=tmp_mib, info_fd=info, seccomp_fd=seccomp)
        return self._popen([*words, *_PYTHON_OPTIONS, "-c", _CLOSE_OTHERS + _BOOTSTRAP, str(theirs.fileno())], passed)

    def _start_process(self, theirs: socket.socket, uid: int | None, tmp_mib: int) -> "subprocess.Popen[bytes]":
        self._supervision, supervised = socket.socketpair()
        self._files.callback(supervised.close)
        supervisor = (Path(__file__).parent / "supervisor.py").read_text()
        words = [str(bubblewrap.python()), *_PYTHON_OPTIONS, "-c", supervisor, str(theirs.fileno())]
        self._folder = Path(tempfile.gettempdir()) / f"delta-program-{os.getpid()}-{secrets.token_hex(8)}"
        words += [str(supervised.fileno()), str(uid or 0), str(self._folder), _BOOTSTRAP]
        return self._popen(words, [theirs.fileno(), supervised.fileno()], PYTHONHASHSEED="0")

    @staticmethod
    def _popen(words: list[str], passed: list[int], **environment: str) -> "subprocess.Popen[bytes]":
        nothing = subprocess.DEVNULL

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                words, stdin=nothing, stdout=nothing, stderr=nothing, env=environment, pass_fds=passed, cwd="/"
            )

        return _launcher(os.getpid()).submit(start).result()


def descendants(pid: int) -> Iterator[int]:
    """A process and all processes below it."""
    yield pid
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                    yield from descendants(int(child))


def receive_exactly(channel: socket.socket, count: int, *, deadline: float | None = None) -> bytes:
    """That many bytes; EOFError at the end of the stream, TimeoutError at the deadline (of `time.monotonic`)."""
    data = bytearray()
    while len(data) < count:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([channel], [], [], left)[0]:
                raise TimeoutError
        chunk = channel.recv(count - len(data))
        if not chunk:
            raise EOFError
        data += chunk
    return bytes(data)
