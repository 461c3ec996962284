"""Checkpoints on disk: written beside, published by a rename, never half there."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from delta.errors import CheckpointError, StorageError

FORMAT = 2
"""Raised when the layout changes; older and newer ones are refused by number."""

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a checkpoint is: everything a resumed run needs to know before it loads a tensor."""

    format: int
    step: int
    """Training steps that are complete."""
    prompts: int
    """Prompts taken from the stream so far."""
    trajectory: Mapping[str, Any]
    """Every setting that decides the course of training; a resumed run must have the same."""
    weights_hash: str
    """SHA-256 of the policy."""
    versions: Mapping[str, str]
    files: Mapping[str, int]
    """Size in bytes of every file, by its path in the checkpoint."""


class CheckpointStore:
    """The checkpoints of a run, newest last, a bounded number of them."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        """Look after `folder`; left-overs of interrupted writes in it are deleted."""
        self._folder = folder
        self._keep = keep
        for leftover in folder.glob(".writing-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def begin(self, step: int) -> Path:
        """An empty folder to write the checkpoint of `step` into."""
        draft = self._folder / f".writing-{step:06d}"
        try:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
        except OSError as error:
            raise self._storage_error(error) from error
        return draft

    def publish(self, draft: Path, manifest: Manifest) -> Path:
        """Make a written folder the newest checkpoint, at once or not at all, and delete the oldest."""
        final = self._folder / f"step-{manifest.step:06d}"
        try:
            with (draft / MANIFEST).open("w", encoding="utf-8") as file:
                json.dump(asdict(manifest), file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            if final.exists():  # an interruption right after a scheduled checkpoint writes the same state again
                shutil.rmtree(final)
            draft.rename(final)
        except OSError as error:
            raise self._storage_error(error) from error
        for old in self._published()[: -self._keep]:
            shutil.rmtree(old, ignore_errors=True)
        return final

    def latest(self) -> tuple[Path, Manifest] | None:
        """The newest checkpoint, checked for completeness; None if there is none.

        Raises:
            CheckpointError: It is damaged or of another format; the message names the one before it.
        """
        published = self._published()
        if not published:
            return None
        try:
            return published[-1], read_manifest(published[-1])
        except CheckpointError as error:
            before = f" The one before is {published[-2]}." if len(published) > 1 else ""
            raise CheckpointError(f"{error} Delete the folder to go on from the one before it.{before}") from error

    def _published(self) -> list[Path]:
        return sorted(self._folder.glob("step-*"))

    def _storage_error(self, error: OSError) -> StorageError:
        latest = self._published()
        kept = f"The last complete checkpoint is {latest[-1]}" if latest else "There is no complete checkpoint yet"
        return StorageError(
            f"cannot write a checkpoint into {self._folder}: {error}. {kept}. Free space or mend the permissions, then "
            "start the same command again."
        )


def sizes(folder: Path) -> dict[str, int]:
    """Size of every file under `folder`, by relative path."""
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}


def read_manifest(checkpoint: Path) -> Manifest:
    """Read and check a checkpoint's manifest.

    Raises:
        CheckpointError: Not a checkpoint of this project and format, or files are missing or cut short.
    """
    try:
        fields = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        found = fields["format"]
        if found != FORMAT:
            raise CheckpointError(f"{checkpoint} has checkpoint format {found}; this version reads format {FORMAT}.")
        manifest = Manifest(**fields)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{checkpoint} is no checkpoint of this project: {error}.") from error
    present = sizes(checkpoint)
    damaged = [name for name, size in manifest.files.items() if present.get(name) != size]
    if damaged:
        raise CheckpointError(f"{checkpoint} is damaged: {', '.join(damaged[:3])} missing or of another size.")
    return manifest
