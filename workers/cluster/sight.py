"""Whether a node sees the files that a run needs on all nodes."""

import contextlib
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from workers.files import storage_errors

VISIBLE_S = 30.0
"""How long a file may take to appear on another node: network file systems cache what is not there."""
POLL_S = 0.2
"""How often it is looked for."""


@dataclass(frozen=True, slots=True)
class Canary:
    """A file that only a node with the same folder can know."""

    file: Path
    text: str


@contextlib.contextmanager
def canary_in(folder: Path) -> Iterator[Canary]:
    """Write one for as long as the block lasts.

    Raises:
        StorageError: It cannot be written.
    """
    canary = Canary(folder / f".canary-{secrets.token_hex(4)}", secrets.token_hex(16))
    try:
        with storage_errors(f"cannot write into {folder}", remedy="Free space or mend the permissions."):
            canary.file.write_text(canary.text, encoding="ascii")
        yield canary
    finally:
        canary.file.unlink(missing_ok=True)


def unseen(canary: Canary, files: Sequence[Path], within_s: float) -> tuple[str, ...]:
    """What is wrong with the files as this node sees them, in words; empty if nothing is.

    Args:
        canary: Written by the driver into a folder that this node must be able to write as well.
        files: That must be here.
        within_s: How long they may take to appear.
    """
    deadline = time.monotonic() + within_s
    while (trouble := _unseen_now(canary, files)) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return trouble


def _unseen_now(canary: Canary, files: Sequence[Path]) -> tuple[str, ...]:
    trouble = []
    for path in files:
        try:
            if not path.exists():
                trouble.append(f"{path} is not there")
        except OSError as error:  # a folder above it that may not be read, a mount that went stale
            trouble.append(f"{path} cannot be looked at ({error.strerror})")
    folder = canary.file.parent
    own = canary.file.with_name(f"{canary.file.name}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        if canary.file.read_text(encoding="ascii") != canary.text:
            trouble.append(f"{folder} is another folder here")
        own.touch()
        own.unlink()
    except FileNotFoundError:
        here = "is a folder of this node's own" if os.path.isdir(folder) else "is not there"
        trouble.append(f"{folder} {here}")
    except OSError as error:
        trouble.append(f"{folder} cannot be read and written ({error.strerror})")
    return tuple(trouble)
