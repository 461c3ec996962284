"""Process mode's stand-in for bubblewrap: starts the sandboxed Python, and ends all its descendants with it.

Runs as `python -c <this file> <channel> <supervision> <uid> <folder> <bootstrap>`. Orphans of the program become our
children (a child subreaper), so a double fork does not hide them. As root, the program runs as a user of its own, which
gives a second way to find every process of it. When the other end of `supervision` is closed, by will or by SIGKILL,
all end.
"""

import ctypes
import os
import select
import shutil
import signal
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_CHILD_SUBREAPER = 38, 36


def below(pid: int) -> list[int]:
    """All descendants of a process, those that it adopted included."""
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                for child in map(int, file.read().split()):
                    found += [child, *below(child)]
    except OSError:  # it ended meanwhile
        pass
    return found


def signal_all(uid: int) -> None:
    """Kill every descendant. One that forks all the time is faster than we are, so all are stopped first."""
    if uid:
        if os.fork() == 0:
            try:
                os.setresuid(uid, uid, uid)
                os.kill(-1, signal.SIGKILL)
            finally:
                os._exit(0)
        return
    stopped: set[int] = set()
    while new := set(below(os.getpid())) - stopped:
        for pid in new:
            try_kill(pid, signal.SIGSTOP)
        stopped |= new
    for pid in stopped:
        try_kill(pid, signal.SIGKILL)


def try_kill(pid: int, number: int) -> None:
    """Send a signal to a process that may be gone."""
    try:  # noqa: SIM105  contextlib is an import
        os.kill(pid, number)
    except OSError:
        pass


def end_all(uid: int) -> None:
    """Kill and reap until there is nobody left."""
    while True:
        signal_all(uid)
        try:
            os.waitpid(-1, 0)
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return


def import_through(library: str, opened: int) -> None:
    """Import from a folder that only root can walk to (a Python below /root) by way of an open file."""
    kept = 128
    os.dup2(opened, kept)
    os.close(opened)
    os.set_inheritable(kept, False)
    through = f"/proc/self/fd/{kept}"
    sys.path[:] = [path.replace(library, through) for path in sys.path if path.startswith(library)]
    for module in list(sys.modules.values()):
        if hasattr(module, "__path__"):
            module.__path__ = [path.replace(library, through) for path in module.__path__]


def run(channel: int, uid: int, bootstrap: str, folder: str) -> None:
    """Become the sandboxed process, in the child."""
    os.setsid()
    os.chdir(folder)
    if uid:
        library = os.path.dirname(os.__file__)
        opened = os.open(library, os.O_PATH | os.O_DIRECTORY)
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        if os.access(library, os.R_OK | os.X_OK):
            os.close(opened)
        else:
            import_through(library, opened)
    ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    sys.argv = ["-c", str(channel)]
    exec(bootstrap, {"__name__": "bootstrap"})


def main(channel: int, supervision: int, uid: int, folder: str, bootstrap: str) -> None:
    """Start the process and wait for its end, or for that of whoever watches us."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    os.mkdir(folder, 0o700)
    if uid:
        os.chown(folder, uid, uid)
    child = os.fork()
    if child == 0:
        os.close(supervision)
        run(channel, uid, bootstrap, folder)
        return  # an ordinary end of the interpreter, which writes what is still buffered
    os.close(channel)
    handle = os.pidfd_open(child)
    ready, _, _ = select.select([handle, supervision], [], [])
    code = 0
    if handle in ready:
        status = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        if status is not None:
            code = status.si_status if status.si_code == os.CLD_EXITED else 128 + status.si_status
    end_all(uid)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(code)


main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5])
