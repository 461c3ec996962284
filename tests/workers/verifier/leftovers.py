"""What a verifier may not leave behind: processes, open files, temporary folders."""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from workers.verifier.code.sandbox import descendants

MARK = "DELTA_TEST_MARK"
"""Environment variable by which processes are known that have lost their parents."""
GONE_S = 60.0


def marked(mark: str) -> set[int]:
    """Living processes that were started with the mark in their environment, and their forks."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()  # empty once it is dead, though not yet reaped
        except OSError:
            continue
        if f"{MARK}={mark}".encode() in environment.split(b"\0"):
            found.add(int(folder.name))
    return found - {os.getpid()}


def below(pid: int) -> set[tuple[int, str]]:
    """All processes below one, with the times at which they started, since ids are used again."""
    return {(each, started) for each in descendants(pid) if each != pid and (started := _started(each))}


def alive(processes: set[tuple[int, str]]) -> set[tuple[int, str]]:
    return {(pid, started) for pid, started in processes if _started(pid) == started}


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def program_folders() -> set[str]:
    return {folder.name for folder in Path(tempfile.gettempdir()).glob("delta-program-*")}


def none_left(find: Callable[[], set]) -> bool:
    """Whether nothing is found any more, once what is ending has ended."""
    return wait_until(lambda: not find())


def wait_until(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + GONE_S
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _started(pid: int) -> str:
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else rest[18]
