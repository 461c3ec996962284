"""The folders that a run writes to: its own, the cache, and the one for temporary files."""

import os
import shutil
import tempfile
from pathlib import Path

from launch.doctor.check import Finding, failed, ok, warning
from workers.controller.config import TrainConfig
from workers.learner.memory_plan import GIB, MIB

SOCKET_PATH = 107
"""Characters that the path of a Unix socket may have on Linux."""
RAY_SOCKET = "delta-ray-xxxxxxxx/session_2026-01-31_12-00-00_000000_4194304/sockets/plasma_store"
"""The longest that a run makes in the folder for temporary files."""
LOGS = GIB // 4
"""What Ray's logs and sockets may take there."""
BYTES_PER_PARAMETER = 12
"""Of a checkpoint: float32 weights and AdamW's two moments."""


def run_folder(config: TrainConfig) -> Finding:
    """It can be made and written, and has room for the checkpoints that are kept and the one being written."""
    from delta.errors import DeltaError
    from launch.memory import architecture_of, memory_inputs

    folder = Path(config.run_dir).absolute()
    place = _existing(folder)
    if trouble := _unwritable(place):
        return failed(
            f"run_dir={config.run_dir}: {trouble}",
            expected="a folder that can be written",
            remedy="Mend the permissions, or choose another run_dir.",
        )
    free = shutil.disk_usage(place).free
    try:
        inputs = memory_inputs(config, architecture_of(config))
    except DeltaError:  # the check of the model says what is wrong with it
        return ok(f"{folder}: {_size(free)} free; what checkpoints take is not known without the model")
    trained = inputs.adapter_parameters or inputs.model.parameters
    copies = config.checkpoint.keep + 1
    needed = trained * BYTES_PER_PARAMETER * copies + inputs.model.parameters * inputs.working_bytes
    seen = f"{folder}: {_size(free)} free"
    what = f"{copies} checkpoints (checkpoint.keep={config.checkpoint.keep} and one being written) and an export"
    if free < needed:
        return failed(
            seen,
            expected=f"{_size(needed)}: {what}",
            remedy="Free space, choose another run_dir, or lower checkpoint.keep.",
        )
    return ok(f"{seen}; {what} take {_size(needed)}")


def cache_folder(_: TrainConfig) -> Finding:
    """Where warm starts are kept can be written."""
    from workers.warm_start.make import cache_folder

    folder = cache_folder()
    if trouble := _unwritable(_existing(folder)):
        return failed(
            f"{folder}: {trouble}",
            expected="a folder that can be written",
            remedy="Set DELTA_CACHE to one that can; on several nodes, to one that all of them see.",
        )
    return ok(f"{folder}{'' if 'DELTA_CACHE' in os.environ else ' (DELTA_CACHE names another)'}")


def temporary_folder(_: TrainConfig) -> Finding:
    """Ray's sockets fit: their paths may not be long."""
    try:
        folder = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        return failed(
            str(error), expected="a folder for temporary files", remedy="Set TMPDIR to one that can be written."
        )
    length = len(os.fsencode(folder / RAY_SOCKET))
    if length > SOCKET_PATH:
        return failed(
            f"{folder}: Ray's sockets would have paths of {length} characters",
            expected=f"{SOCKET_PATH} at most",
            remedy="Set TMPDIR to a shorter path, such as /tmp.",
        )
    free = shutil.disk_usage(folder).free
    if free < LOGS:
        return warning(
            f"{folder}: {_size(free)} free",
            expected=f"{_size(LOGS)} for Ray's logs",
            remedy="Free space, or set TMPDIR to another folder.",
        )
    return ok(f"{folder}: {_size(free)} free")


def _existing(folder: Path) -> Path:
    """The nearest folder above, or the folder itself, that is there already."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())


def _unwritable(folder: Path) -> str | None:
    """Why no file can be written there; nothing is left of the attempt."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        return f"{error.strerror} ({folder})"
    return None


def _size(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.0f} MiB"
