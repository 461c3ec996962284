"""What the nodes of a job tell each other, as files in a folder that all of them see.

One folder for every start of the job, so that nothing of an earlier start is mistaken for news.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from workers.files import write_whole

STOP = "stop"
"""Made by the batch script: the run is to end in a checkpoint, soon."""
LAST = "last"
"""Made by the batch script: Slurm kills whatever is still there after its KillWait."""
HEAD = "head"
"""Made by the head: its Ray listens; holds the address."""
ENDED = "ended"
"""Made by the head: the run is over; holds its exit code."""


@dataclass(frozen=True, slots=True)
class Marks:
    """The folder of one start of the job."""

    folder: Path

    def has(self, name: str) -> bool:
        """Whether somebody made the mark.

        By listing the folder: clients of network file systems remember for a while that a file was not there, but look
        again when a folder is opened.
        """
        return any(path.name == name for path in self.folder.iterdir())

    def read(self, name: str) -> str:
        """What a mark holds; empty if nobody made it."""
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / name).read_text(encoding="utf-8")
        return ""

    def make(self, name: str, text: str = "") -> None:
        """Make a mark: all of it, or none."""
        write_whole(self.folder / name, text)


def started(node: str) -> str:
    """Made by each node when it begins."""
    return f"{node}.started"


def failed(node: str) -> str:
    """Made by a node that cannot take part; holds the reason."""
    return f"{node}.failed"
