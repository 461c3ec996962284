"""The runs of a sweep from their folders: which there are, how they are doing, and what the complete ones hold."""

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from delta.errors import DataError
from launch.run_folder import SETTINGS
from launch.statistics import Measured, Run
from launch.sweep.queue import jobs_as_far_as_known
from launch.sweep.record import EventLog, Member, read_sweep, submitted
from launch.sweep.state import State, Status, status_of
from workers.controller.metrics import JsonLines


@dataclass(frozen=True, slots=True)
class Found:
    """A member of a sweep."""

    member: Member
    method: str
    """What it has in common with runs that differ in the seed only."""
    status: Status
    run: Run | None
    """What it holds, if that is complete."""


def find_members(folder: Path) -> list[Found]:
    """All members of a sweep; in a folder that no sweep was started in, all run folders below it.

    Raises:
        DataError: There is none, or two have the same method and seed.
    """
    folder = Path(os.path.abspath(folder))
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: expected that of a sweep, such as runs/sweeps/credit+seed.")
    if (folder / SETTINGS).exists():
        raise DataError(f"{folder} is the folder of a run, not of a sweep: delta-report run={folder} reports on it.")
    sweep = read_sweep(folder)
    members = sweep.members if sweep else tuple(_member(place, folder) for place in _run_folders(folder))
    if not members:
        raise DataError(
            f"{folder} holds no run. Expected the folder of a sweep (sweep.json), or one with run folders "
            "(config.yaml) somewhere below it."
        )
    events = EventLog(folder).last()
    jobs = jobs_as_far_as_known(submitted(members, events))
    found = [_found(one, status_of(one, events.get(one.name), jobs.get(one.name))) for one in members]
    _refuse_twins(found)
    return found


def _found(member: Member, status: Status) -> Found:
    try:
        run = read_run(member.run_dir, name=member.name, method=member.method)
        status = replace(status, state=State.complete, detail="")  # whatever else is missing, such as the export
        return Found(member, run.method, status, run)
    except DataError as error:
        if status.state in (State.complete, State.incomplete):
            status = replace(status, state=State.incomplete, detail=str(error))
        return Found(member, member.method, status, None)


def _refuse_twins(found: Sequence[Found]) -> None:
    seen: dict[tuple[str, int], Run] = {}
    for run in (one.run for one in found if one.run is not None):
        twin = seen.setdefault((run.method, run.seed), run)
        if twin is not run:
            raise DataError(
                f"{twin.folder} and {run.folder} are both {run.method} with seed {run.seed}: expected one run per "
                "method and seed. Give one of them another label in its config.yaml, or move it elsewhere."
            )


def _member(place: Path, folder: Path) -> Member:
    return Member(name=place.relative_to(folder).as_posix(), choices={}, run_dir=place, overrides=())


def _run_folders(root: Path) -> Iterator[Path]:
    """Folders with a configuration, or named like a seed; what lies within a run is its own business."""
    for place, children, files in os.walk(root, followlinks=True):
        if Path(place) != root and (SETTINGS in files or re.fullmatch(r"seed\d+", Path(place).name)):
            children.clear()
            yield Path(place)
        children[:] = sorted(child for child in children if not child.startswith("."))


def read_run(folder: Path, *, name: str, method: str = "") -> Run:
    """One run from its files.

    Args:
        folder: Of the run.
        name: It is shown under this.
        method: Without, it is the label in its settings, else the name of the folder above.

    Raises:
        DataError: It is not complete; the message is the bare reason.
    """
    if not (folder / SETTINGS).is_file():
        raise DataError("no config.yaml: it never began")
    try:
        settings = dict(_flatten(OmegaConf.to_container(OmegaConf.load(folder / SETTINGS), resolve=True)))
        steps, seed = int(settings["steps"]), int(settings["seed"])
    except (OSError, YAMLError, OmegaConfBaseException, KeyError, TypeError, ValueError) as error:
        raise DataError(f"config.yaml is damaged or lacks a setting: {error!r}") from error
    rows = JsonLines(folder / "metrics.jsonl").rows()
    if [row["step"] for row in rows] != list(range(1, steps + 1)):
        raise DataError(f"{len(rows)} rows in metrics.jsonl, expected one for each of {steps} steps")
    evaluations = JsonLines(folder / "evaluations.jsonl").rows()
    measured = [Measured(row["step"], row["accuracy"], row["sampled_accuracy"]) for row in evaluations]
    if not measured or measured[-1].step != steps:
        raise DataError(f"no evaluation after step {steps}")
    rewards = [row.get("reward/mean", math.nan) for row in rows]
    if not all(map(math.isfinite, rewards)):
        raise DataError("reward/mean in metrics.jsonl is missing or not finite")
    return Run(
        folder=name,
        method=method or str(settings.get("label") or folder.parent.name),
        seed=seed,
        settings=settings,
        rewards=rewards,
        measured=measured,
        hours=sum(row.get("time/step_s", 0.0) for row in rows) / 3600 * _held(settings),
        tokens=int(sum(row.get("rollout/tokens", 0) for row in rows)),
    )


def _held(settings: Mapping[str, Any]) -> int:
    """GPUs that a run holds, or CPUs if it has none."""
    per_node = settings.get("cluster.num_gpus") or settings.get("cluster.num_cpus") or 1
    return int(settings.get("nodes") or 1) * int(per_node)


def _flatten(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _flatten(value, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, node
