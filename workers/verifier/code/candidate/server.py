"""Executes the program and serves the tests: the whole life of a sandboxed process."""

from __future__ import annotations

import builtins
import posix
import sys
from _json import encode_basestring_ascii as quote

from workers.verifier.code.candidate.exceptions import describe
from workers.verifier.code.candidate.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any


def compiled(source: str) -> CodeType | str:
    """The program's code, or why there is none."""
    try:
        return compile(source, "<program>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        return f'["unparsable",{quote(f"{type(error).__name__}: {error}"[:200])}]'


def new_program(name: str) -> dict[str, Any]:
    """The namespace of a module of its own, which dataclasses and pickle look for."""
    module = type(sys)(name)
    sys.modules[name] = module
    return module.__dict__


def leave(code: Any = None) -> None:
    """`exit` and `quit`, which the absent `site` module would have brought."""
    raise SystemExit(code)


def limit(limits: dict[str, int]) -> None:
    """Lower this process's resource limits, for good."""
    import resource

    for name, value in limits.items():
        number = getattr(resource, name)
        hard = resource.getrlimit(number)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        # The soft limit of processor time is a signal that tells why the program ended.
        resource.setrlimit(number, (value, value + 1 if name == "RLIMIT_CPU" and hard != value else value))


def serve_functions(session: Session, source: str) -> None:
    """Run the program, then do as the tests ask."""
    code = compiled(source)
    if isinstance(code, str):
        session.send(code)
        return
    try:
        exec(code, new_program("program"))  # the sandbox is made for this
    except BaseException as error:  # noqa: BLE001  the program's code ends here: it may raise anything, and exit
        session.send(describe(error))
    else:
        session.send('["ok",null]')
    while True:
        session.send(session.answer(session.receive()))


def end_others() -> None:
    """Kill every process that we may, but ourselves."""
    try:  # noqa: SIM105  contextlib is an import
        posix.kill(-1, 9)
    except OSError:
        pass


def serve_cases(session: Session, source: str, clean: bool) -> None:
    """Run the program once for each case that arrives, in a fork of this process."""
    import _socket

    code = compiled(source)
    if isinstance(code, str):
        session.send(code)
        return
    session.send('["ok",null]')
    channel = _socket.socket(fileno=session.fd)
    while True:
        head, control, _, _ = channel.recvmsg(1, _socket.CMSG_SPACE(8))
        if not head:
            posix._exit(0)
        files = memoryview(control[0][2]).cast("i")
        child = posix.fork()
        if child == 0:
            posix.dup2(files[0], 0)
            posix.dup2(files[1], 1)
            for fd in (*files, channel.detach()):
                posix.close(fd)
            break
        status = posix.waitpid(child, 0)[1]
        for file in files:
            posix.close(file)
        if clean:  # nobody else lives in this namespace
            end_others()
        session.send(f'["ok",{status}]')
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    exec(code, new_program("__main__"))


def main(fd: int, limits: dict[str, int], private: bool) -> None:
    """Say that we are ready, take the program, run it.

    Args:
        fd: Socket to the judge.
        limits: Resource limits by name.
        private: Whether this process has a process namespace to itself.
    """
    limit(limits)
    for name in list(posix.environ):
        posix.unsetenv(name)
    posix.environ.clear()
    vars(builtins).update(exit=leave, quit=leave)
    sys.setrecursionlimit(sys.getrecursionlimit() + 20)  # our own frames are not the program's
    sys.argv = ["program.py"]
    session = Session(fd)
    session.send('["ready"]')
    kind, source = session.receive()
    if kind == "cases":
        serve_cases(session, source, private)
    else:
        serve_functions(session, source)
