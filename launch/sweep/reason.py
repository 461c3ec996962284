"""Why a member failed, from what it wrote."""

import re
from pathlib import Path

ERROR = re.compile(r"(?:\[[^]]*\] )?error: (.*)")
"""As our commands say it, on the nodes of a job with time and name before it."""
SHOWN_LINES = 12
LOOKED_AT_BYTES = 65536


def reason_in(log: Path, *, since: int = 0) -> str:
    """The last error that a log names, else its last line; empty without a log.

    Args:
        log: Output of the member.
        since: Bytes of it that are of earlier attempts.
    """
    said = [line.strip() for line in _end_of(log, since=since).splitlines() if line.strip()]
    errors = [match[1] for line in said if (match := ERROR.match(line))]
    return (errors or [line for line in said if not line.startswith("===")] or [""])[-1]


def tail(log: Path) -> str:
    """The last lines of a log, indented."""
    return "\n".join(f"  {line}" for line in _end_of(log).splitlines()[-SHOWN_LINES:])


def _end_of(log: Path, *, since: int = 0) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(since, log.stat().st_size - LOOKED_AT_BYTES))
            return file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
