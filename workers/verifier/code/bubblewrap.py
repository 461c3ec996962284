"""The bubblewrap command line: what a sandboxed Python sees of the machine, and as whom it runs.

As root no user namespace is used: inside one, root would still be the real root to the rest of the machine, so a
`setpriv` in the sandbox changes to a user that nobody else is. An ordinary user gets a user namespace.
"""

import itertools
import os
import shutil
import sys
import sysconfig
from pathlib import Path

FOLDER = "/tmp"
"""Where a sandboxed process starts, in memory: the only place in its sandbox that can be written to."""
_SYSTEM_LIBRARIES = ("/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libexec", "/lib", "/lib32", "/lib64")
_UIDS_PER_SLOT, _SLOTS_PER_PROCESS = 4, 16
_slots = itertools.count()


def python() -> Path:
    """The interpreter behind this one, without any virtual environment."""
    return Path(getattr(sys, "_base_executable", None) or sys.executable).resolve()


def private_uids() -> tuple[int, int, int]:
    """Three user ids for a slot: two for programs in turn, one for tests. No other process of this machine has them.

    They follow from our process id, so that slots in different processes stay apart without talking to each other.
    Where few ids are mapped (rootless containers) they are drawn from the upper half of those.
    """
    ranges = [tuple(map(int, line.split())) for line in Path("/proc/self/uid_map").read_text().splitlines()]
    first, _, length = max(ranges, key=lambda part: part[2])
    start, span = (0x10000000, 0x60000000) if length > 0x70000000 else (first + length // 2, length // 2)
    place = (os.getpid() * _SLOTS_PER_PROCESS + next(_slots) % _SLOTS_PER_PROCESS) * _UIDS_PER_SLOT
    one, two, three = (start + (place + role) % span for role in range(3))
    return one, two, three


def command(*, uid: int | None, tmp_mib: int, info_fd: int, seccomp_fd: int | None) -> list[str]:
    """Everything before the Python arguments.

    Args:
        uid: Who to become, as root; None as an ordinary user.
        tmp_mib: Size of `FOLDER`.
        info_fd: Where bubblewrap tells its child's process id.
        seccomp_fd: Where it reads the system call filter from.
    """
    executable = python()
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise FileNotFoundError("bwrap is not installed")
    words = [bwrap, "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    if uid is None:
        words += ["--unshare-user", "--uid", "65534", "--gid", "65534", "--cap-drop", "ALL"]
    words += ["--hostname", "sandbox", "--die-with-parent", "--new-session", "--info-fd", str(info_fd)]
    if seccomp_fd is not None:
        words += ["--seccomp", str(seccomp_fd)]
    words += _binds(_visible(executable, needs_setpriv=uid is not None))
    words += ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
    words += ["--perms", "1777", "--size", str(tmp_mib << 20), "--tmpfs", FOLDER, "--chdir", FOLDER]
    words += ["--remount-ro", "/", "--clearenv", "--setenv", "PYTHONHASHSEED", "0", "--"]
    if uid is not None:
        words += [_setpriv(), f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--no-new-privs"]
        words += ["--bounding-set=-all", "--inh-caps=-all", "--"]
    return [*words, str(executable)]


def _setpriv() -> str:
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise FileNotFoundError("setpriv is not installed (util-linux)")
    return setpriv


def _visible(executable: Path, *, needs_setpriv: bool) -> list[Path]:
    """System libraries, the interpreter and its standard library."""
    paths = [Path(name) for name in _SYSTEM_LIBRARIES] + [Path("/etc/ld.so.cache")]
    prefix = Path(sys.base_prefix).resolve()
    if prefix in (Path("/"), Path("/usr")):
        paths.append(executable)
    elif prefix == Path("/usr/local"):
        paths += [executable, prefix / "lib"]
    else:
        paths.append(prefix)
    for name in ("stdlib", "platstdlib"):
        paths.append(Path(sysconfig.get_path(name)).resolve())
    if not any(executable.is_relative_to(path) for path in paths):
        paths.append(executable)
    if needs_setpriv:
        paths.append(Path(_setpriv()))
    visible: list[Path] = []
    for path in paths:
        if path.exists() and not any(path.is_relative_to(seen) for seen in visible):
            visible.append(path)
    return visible


def _binds(paths: list[Path]) -> list[str]:
    """Read-only binds; the folders above them are made passable, which bubblewrap does not do by itself."""
    words: list[str] = []
    made: set[Path] = set()
    for path in paths:
        for parent in reversed(path.parents[:-1]):
            if parent not in made and not any(parent.is_relative_to(bound) for bound in paths):
                made.add(parent)
                words += ["--perms", "0755", "--dir", str(parent)]
        words += ["--ro-bind", str(path), str(path)]
    return words
