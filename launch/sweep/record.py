"""What is written down about a sweep: its members (`sweep.json`), and what happened to them (`events.jsonl`)."""

import datetime
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path

from delta.errors import DataError
from workers.controller.metrics import JsonLines
from workers.files import storage_errors, write_whole

SWEEP = "sweep.json"
FLAGS = ("true", "false", "null")
EVENTS = "events.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One run of a sweep."""

    name: str
    choices: Mapping[str, str]
    """Its values of the keys that are swept."""
    run_dir: Path
    """Absolute; written relative to the sweep's folder, which may be moved, where it is in it."""
    overrides: tuple[str, ...]
    """`delta-train` with these is the run."""

    @property
    def method(self) -> str:
        """What it has in common with members that differ in the seed: `credit=uniform, steps=40`, or just `uniform`."""
        others = {key: value for key, value in self.choices.items() if key != "seed"}
        names = [value for value in others.values() if re.fullmatch(r"[a-z]\w+", value) and value not in FLAGS]
        if len(others) == len(names) == 1:
            return names[0]
        return ", ".join(f"{key}={value}" for key, value in others.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A folder of members."""

    folder: Path
    command: tuple[str, ...]
    """The last one that was given; it goes on when it is given again."""
    members: tuple[Member, ...]


class What(Enum):
    """What the launcher did with a member, or saw of it."""

    started = "started"
    submitted = "submitted"
    ended = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of `events.jsonl`."""

    member: str
    what: What
    job: str = ""
    """Id of the job, where a scheduler runs it."""
    cluster: str = "slurm"
    """Kind of the cluster that the job was sent to, as in `cluster=`."""
    pid: int = 0
    """Process on `host`, where there is no scheduler."""
    host: str = ""
    code: int | None = None
    """How it ended, see `launch.command`; None where nobody saw."""
    reason: str = ""
    """Why it failed, in a line."""
    time: str = field(default_factory=lambda: datetime.datetime.now().astimezone().isoformat(timespec="seconds"))
    """ISO 8601."""


def read_sweep(folder: Path) -> Sweep | None:
    """The sweep of a folder; None if there is none.

    Raises:
        DataError: Its record is damaged.
    """
    folder = Path(os.path.abspath(folder))
    try:
        record = json.loads((folder / SWEEP).read_text(encoding="utf-8"))
        members = tuple(
            Member(
                name=row["name"],
                choices=row["choices"],
                run_dir=folder / row["run_dir"],
                overrides=tuple(row["overrides"]),
            )
            for row in record["members"]
        )
        return Sweep(folder=folder, command=tuple(record["command"]), members=members)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder / SWEEP} is damaged: {error!r}. Delete it: the command of the sweep writes it anew, and keeps "
            "the runs."
        ) from error


def make_folder(folder: Path) -> None:
    """Create the folder of a sweep.

    Raises:
        StorageError: It cannot be written.
    """
    with storage_errors(f"sweep={folder} cannot be written", remedy="Choose another folder."):
        folder.mkdir(parents=True, exist_ok=True)


def write_sweep(sweep: Sweep) -> None:
    """Write `sweep.json`.

    Raises:
        StorageError: It cannot be written.
    """
    rows = [asdict(member) | {"run_dir": _within(member.run_dir, sweep.folder)} for member in sweep.members]
    text = json.dumps({"command": sweep.command, "members": rows}, indent=1) + "\n"
    with storage_errors(f"cannot write {sweep.folder / SWEEP}", remedy="Free space, or choose another sweep=FOLDER."):
        write_whole(sweep.folder / SWEEP, text)


def joined(sweep: Sweep, earlier: Sweep | None) -> Sweep:
    """The sweep with the members that it had before and that its command no longer names."""
    named = {member.name for member in sweep.members}
    others = [member for member in earlier.members if member.name not in named] if earlier else []
    return Sweep(folder=sweep.folder, command=sweep.command, members=(*others, *sweep.members))


class EventLog:
    """What happened to the members of a sweep."""

    def __init__(self, folder: Path) -> None:
        """Of the sweep in `folder`."""
        self._file = JsonLines(folder / EVENTS)

    def add(self, event: Event) -> None:
        """Write an event down.

        Raises:
            StorageError: The disk is full, or the file cannot be written.
        """
        self._file.append(asdict(event) | {"what": event.what.value})

    def last(self) -> dict[str, Event]:
        """The last event of each member that has any."""
        return {row["member"]: Event(**(row | {"what": What(row["what"])})) for row in self._file.rows()}


def submitted(members: Iterable[Member], events: Mapping[str, Event]) -> list[tuple[Member, Event]]:
    """Members whose last event is that a scheduler was given their job, with that event."""
    last = [(member, events.get(member.name)) for member in members]
    return [(member, event) for member, event in last if event is not None and event.what is What.submitted]


def _within(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def check_folders(members: Sequence[Member]) -> None:
    """Members that would share a folder are refused.

    Raises:
        DataError: Two do.
    """
    seen: dict[Path, str] = {}
    for member in members:
        if (twin := seen.get(member.run_dir)) is not None:
            raise DataError(
                f"{twin} and {member.name} have the same run_dir={member.run_dir}. Name each value once, and leave "
                "run_dir out, or make it depend on what is swept, as in 'run_dir=runs/${label}-${seed}'."
            )
        seen[member.run_dir] = member.name
