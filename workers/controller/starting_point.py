"""Where a run begins: anew, at a checkpoint of its own or of another run, or not at all, because it is complete."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from delta.types import Prompt
from workers.controller.checkpoints import CheckpointStore, Manifest, find_checkpoint, read_manifest
from workers.controller.config import Resume, TrainConfig
from workers.controller.trajectory import check_same_trajectory, trajectory_of

SUMMARY = "summary.json"
"""The last file of a finished run."""


def starting_point(
    config: TrainConfig,
    checkpoints: CheckpointStore,
    *,
    say: Callable[[str], None],
    checksums: bool = True,
    began_from: Path | None = None,
) -> tuple[Path, Manifest] | None:
    """The checkpoint a run goes on from; None to start anew.

    Its own newest one; with `resume=last_good` the newest that is whole; in a folder without any, `resume_from`.

    Args:
        config: The run's.
        checkpoints: Of the run.
        say: Told what is set aside.
        checksums: Read all files to find changed ones.
        began_from: What `resume_from` was found to mean before; that run may have newer ones by now.

    Raises:
        CheckpointError: It cannot be used; the message says why and what to do.
    """
    found = (
        checkpoints.last_good(checksums=checksums, say=say)
        if config.resume is Resume.last_good
        else checkpoints.latest(checksums=checksums)
    )
    if found is None and config.resume_from:
        path = began_from or find_checkpoint(Path(config.resume_from))
        return path, read_manifest(path, checksums=checksums)
    return found


def is_complete(config: TrainConfig, *, train: Sequence[Prompt], run_dir: Path, say: Callable[[str], None]) -> bool:
    """Whether the folder holds this very run, with all its steps done and everything written.

    The checkpoint to go on from is read and checked here, before anything is started.

    Raises:
        CheckpointError: It holds another one.
    """
    store = CheckpointStore(run_dir / "checkpoints", keep=config.checkpoint.keep)
    found = starting_point(config, store, say=say)
    if found is None:
        return False
    folder, manifest = found
    check_same_trajectory(trajectory_of(config, train), manifest.trajectory, folder=folder)
    return manifest.step >= config.steps and finished_steps(run_dir) == manifest.step


def finished_steps(run_dir: Path) -> int | None:
    """Steps of the last time that the run came to its end, summed up and exported; None if it never has."""
    try:
        summary: dict[str, Any] = json.loads((run_dir / SUMMARY).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return int(summary["steps"]) if (run_dir / "export" / "config.json").exists() else None
