"""Whose run folder it is: a file in it names the one driver that may write there.

Locks keep a second driver out on one host, and on most shared file systems. Where they do not reach across nodes, or
where a node that was cut off still runs the driver that a scheduler has replaced, the newer driver writes its name over
the older one's, and the older one stops before it writes anything that the newer could take for its own.
"""

import os
import secrets
import socket
from dataclasses import dataclass, field
from pathlib import Path

from delta.errors import TakenOverError


def _new_name() -> str:
    """One that no other driver ever has."""
    return f"process {os.getpid()} on {socket.gethostname()}, {secrets.token_hex(8)}"


@dataclass(slots=True)
class Hold:
    """A driver's claim to a run folder."""

    file: Path
    """Holds the name of the driver."""
    name: str = field(default_factory=_new_name)
    written: bool = False
    """Whether the name could be written; on a full disk it could not, and nothing can be told from the file."""

    def check(self) -> None:
        """Make sure that the folder is still this driver's.

        Raises:
            TakenOverError: It is another driver's by now; the message names it.
        """
        if not self.written:
            return
        try:
            found = self.file.read_text(encoding="utf-8")
        except OSError as error:
            found = str(error)
        if found != self.name:
            raise TakenOverError(
                f"{self.file.parent} belongs to another driver by now ({found or 'which does not say its name'}); "
                f"expected {self.name}, which is this one. It ends without writing anything more: the other goes on "
                "from the last checkpoint. Give every run a folder of its own."
            )
