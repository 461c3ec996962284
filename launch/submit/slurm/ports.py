"""Ports and a folder for the Ray of one node: a block of its own for every job on it.

Blocks lie below the ports that the kernel hands out. A folder on the node's disk, named after the block and locked by
its owner, keeps jobs of one user apart; a look at who listens keeps them apart from anybody else.
"""

import contextlib
import fcntl
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from delta.errors import SubmissionError

FIXED = (
    "--port",
    "--node-manager-port",
    "--object-manager-port",
    "--runtime-env-agent-port",
    "--dashboard-agent-grpc-port",
    "--dashboard-agent-listen-port",
    "--metrics-export-port",
    "--ray-client-server-port",
    "--dashboard-port",
)
"""Options of `ray start` that take a port each, in the order of the block."""
HEAD_ONLY = ("--port", "--ray-client-server-port", "--dashboard-port")
SPARE = 100
"""Ports for worker processes beyond three for each CPU: Ray keeps as many as it has CPUs, and actors come on top."""


@dataclass(frozen=True, slots=True)
class Block:
    """What the Ray of a node has for itself while it runs."""

    folder: Path
    """On the node's disk, empty at first; with a short path, since Ray puts sockets there."""
    first: int
    size: int

    @property
    def gcs_port(self) -> int:
        """Where the head listens for the others."""
        return self.first

    def options(self, *, head: bool) -> list[str]:
        """Options of `ray start`: every port it would otherwise choose at random."""
        pinned = [
            f"{option}={port}" for port, option in enumerate(FIXED, start=self.first) if head or option not in HEAD_ONLY
        ]
        workers = self.first + len(FIXED)
        return [*pinned, f"--min-worker-port={workers}", f"--max-worker-port={self.first + self.size - 1}"]


def block_size(cpus: int) -> int:
    """Ports of a block on a node with so many CPUs."""
    return len(FIXED) + 3 * cpus + SPARE


@contextlib.contextmanager
def own_block(*, temp_dir: Path, first_port: int, last_port: int, cpus: int, preferred: int) -> Iterator[Block]:
    """A block that nobody uses, and its folder, while the block of code lasts.

    Args:
        temp_dir: Where folders of blocks are made.
        first_port: Where ports begin.
        last_port: Where they end.
        cpus: Of the node; more of them need more ports.
        preferred: Number of the block to look at first; jobs with different numbers do not even try the same.

    Raises:
        SubmissionError: None is free.
    """
    for left in temp_dir.glob(f"delta-{os.getuid()}-*"):
        with _held(left):  # and so emptied and removed, if its owner was killed
            pass
    size = block_size(cpus)
    count = (last_port + 1 - first_port) // size
    for number in range(preferred, preferred + count):
        first = first_port + number % count * size
        # With the user's number: a folder of somebody else could not even be opened.
        folder = temp_dir / f"delta-{os.getuid()}-{first}"
        with _held(folder) as is_ours:
            if is_ours and not any(_listens(port) for port in range(first, first + size)):
                yield Block(folder, first, size)
                return
    raise SubmissionError(
        f"{socket.gethostname()}: no {size} free ports in a row between {first_port} and {last_port}. Widen the range "
        "(cluster.first_port, cluster.last_port), or look who uses them: ss -ltnp, and who has their folders: "
        f"ls -ld {temp_dir}/delta-{os.getuid()}-*"
    )


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Try to own a folder; then it is empty, but for the lock, and removed in the end.

    Others may write where it is: what they put there under its name, a link to a folder of ours above all, stays as it
    is. A real folder of this user nobody else can replace, since `temp_dir` is either ours or sticky.
    """
    lock = folder / "lock"
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            seen = folder.lstat()
            if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.getuid():
                raise PermissionError(f"{folder} is not ours")
            file = stack.enter_context(lock.open("a"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The owner before us may have removed it between our opening and locking it.
            is_ours = lock.stat().st_ino == os.fstat(file.fileno()).st_ino
        except OSError:
            is_ours = False
        if is_ours:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                for left in set(folder.iterdir()) - {lock}:  # by a job that was killed
                    shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        yield is_ours


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # or a connection just closed would count
        try:
            probe.bind(("", port))
        except OSError:
            return True
    return False
