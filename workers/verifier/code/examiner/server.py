"""Executes tests, one job after another, and tells what they found.

A long-lived process imports what tests usually want and then forks one child per job. Only that child holds the pipe
that the verdict travels on. The parent does nothing but start, kill and reap children, and is itself replaced when it
fails to answer.

A job arrives as eight bytes of length, with two files attached (the program's socket and the verdict pipe), and a
marshalled dictionary. Its end is told by one byte. A byte of the judge in between cancels it.
"""

import builtins
import json
import linecache
import marshal
import os
import random
import resource
import select
import signal
import socket
import symtable
import sys
import types
from typing import Any

from workers.verifier.code.examiner.channel import BrokenChannelError, Channel
from workers.verifier.code.examiner.remote import Remote
from workers.verifier.code.examiner.session import CandidateError, Session

_LIKELY_IMPORTS = ("copy", "functools", "heapq", "itertools", "math", "operator", "re", "string", "typing", "unittest")
_TESTS = "<tests>"
_BUILTINS = frozenset(dir(builtins)) | {"__file__", "__name__", "__annotations__"}

Finding = tuple[str, str]
"""An outcome by name, and its detail."""


def undefined_names(source: str) -> list[str]:
    """The globals that the tests use but neither define nor import, and that are no built-ins."""
    pending = [symtable.symtable(source, _TESTS, "exec")]
    top = pending[0]
    defined = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    used: dict[str, None] = {}
    while pending:
        table = pending.pop()
        pending.extend(table.get_children())
        for symbol in table.get_symbols():
            if symbol.is_global() or table is top:
                if symbol.is_referenced():
                    used[symbol.get_name()] = None
                if symbol.is_assigned() and table is not top:
                    defined.add(symbol.get_name())
    return [name for name in used if name not in defined and name not in _BUILTINS]


def examine(session: Session, source: str, entry_point: str) -> Finding:
    """Run the tests against the program at the other end of the session."""
    started = session.load()
    if started[0] == "unparsable":
        return "unparsable", str(started[-1])[:300]
    if started[0] != "ok":
        return "wrong", f"the program raised {_told(started)}"
    try:
        code = compile(source, _TESTS, "exec", dont_inherit=True)
        wanted = undefined_names(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return "error", f"the tests do not compile: {error}"[:300]
    if entry_point not in wanted:
        wanted.append(entry_point)
    try:
        found = session.names(wanted)
    except Exception as error:  # noqa: BLE001  the program has broken its own server
        return "wrong", f"the program raised {_shown(error)}"
    if entry_point not in found:
        return "wrong", f"the program does not define {entry_point!r}"
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    for name in wanted:
        if name in found:
            module.__dict__[name] = found[name]
        elif name in sys.stdlib_module_names:  # imported by the program for all of its module
            module.__dict__[name] = __import__(name)
    linecache.cache[_TESTS] = (len(source), None, source.splitlines(keepends=True), _TESTS)
    random.seed(0)
    finding = judged(session, code, module)
    if finding[0] == "error" and type(found[entry_point]) is not Remote:  # there is nothing to use
        return "wrong", f"{entry_point!r} is no function"
    return finding


def judged(session: Session, code: types.CodeType, module: types.ModuleType) -> Finding:
    """Execute the tests; they pass when they end without an exception and have used the program."""
    try:
        exec(code, module.__dict__)  # our own tests, in a sandbox
    except BrokenChannelError as error:
        return "wrong", str(error)
    except SystemExit as error:  # unittest.main
        if error.code not in (None, 0, False):
            return "wrong", f"the tests ended with exit code {str(error.code)[:100]}"
    except BaseException as error:  # noqa: BLE001  the boundary
        if session.broken:
            return "wrong", session.broken
        if session.requests == 0 and not isinstance(error, NameError):
            return "error", f"the tests raise {_shown(error)} before they use the program"
        return "wrong", _shown(error)
    if session.broken:  # the tests caught it
        return "wrong", session.broken
    if session.requests == 0:
        return "error", "the tests never use the program"
    return "correct", ""


def _told(started: list[Any]) -> str:
    """The exception of a program as it told it."""
    name, args = (started[2], started[3]) if len(started) == 4 else ("an exception", [])
    return f"{str(name)[:100]}: {str(args)[:100]}"


def _shown(error: BaseException) -> str:
    """An exception of the tests, with the line where they raised it."""
    line, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == _TESTS:
            line = f"line {trace.tb_lineno}: {linecache.getline(_TESTS, trace.tb_lineno).strip()[:120]}"
        trace = trace.tb_next
    name = str(error) if type(error) is CandidateError else getattr(error, "candidate_name", type(error).__name__)
    try:
        message = "" if isinstance(error, AssertionError | CandidateError) else f" ({str(error)[:100]})"
    except BaseException:  # noqa: BLE001  it may hold an object of the program
        message = ""
    return f"{str(name)[:100]}{message} in {line}" if line else f"{str(name)[:100]}{message}"


def run_job(job: dict[str, Any], program_fd: int, verdict_fd: int) -> None:
    """One job in a forked child, which never returns."""
    for name, value in job["limits"].items():
        resource.setrlimit(getattr(resource, name), (value, value))
    channel = Channel(program_fd, max_bytes=job["max_bytes"])
    session = Session(channel, is_ours=lambda value: type(value).__module__ == "__main__")
    try:
        channel.send(marshal.dumps(("functions", job["program"])))
        finding = examine(session, job["tests"], job["entry_point"])
    except BrokenChannelError as error:
        finding = ("wrong", str(error))
    except BaseException as error:  # noqa: BLE001  whatever it is, it is ours
        finding = ("error", f"{type(error).__name__}: {error}"[:300])
    os.write(verdict_fd, json.dumps(finding).encode()[:4000])
    os._exit(0)


def serve(control: socket.socket) -> None:
    """Fork a child per job until the judge is gone."""
    while True:
        head, fds, _, _ = socket.recv_fds(control, 8, 2)
        if len(head) < 8:
            os._exit(0)
        job = marshal.loads(read_exactly(control, int.from_bytes(head, "little")))
        child = os.fork()
        if child == 0:
            control.close()
            run_job(job, *fds)
        for fd in fds:
            os.close(fd)
        wait_for(child, control)
        control.sendall(b"D")


def read_exactly(control: socket.socket, count: int) -> bytes:
    """That many bytes; the process ends when the judge is gone."""
    data = bytearray()
    while len(data) < count:
        chunk = control.recv(min(count - len(data), 1 << 20))
        if not chunk:
            os._exit(0)
        data += chunk
    return bytes(data)


def wait_for(child: int, control: socket.socket) -> None:
    """Reap the child when it ends, or kill it when the judge says so."""
    handle = os.pidfd_open(child)
    ready, _, _ = select.select([handle, control.fileno()], [], [])
    if control.fileno() in ready:
        cancelled = control.recv(1)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if not cancelled:
            os._exit(0)
    else:
        os.waitpid(child, 0)
    os.close(handle)


def main(fd: int, limits: dict[str, int], private: bool) -> None:
    """Import, say that we are ready, serve."""
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, name), (value, value))
    sys.argv = ["tests.py"]
    for name in _LIKELY_IMPORTS:
        __import__(name)
    control = socket.socket(fileno=fd)
    body = b'["ready"]'
    control.sendall(len(body).to_bytes(4, "little") + body)
    serve(control)
