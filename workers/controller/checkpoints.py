"""Checkpoints on disk: written beside, published by a rename, never half there; read only if they are whole."""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from delta.errors import CheckpointError, StorageError
from workers.files import FileDigest, describe_difference, force_to_disk
from workers.hold import Hold

PROJECT = "delta-rlvr"
"""Marks a manifest as ours."""

FORMAT = 3
"""Raised when the layout changes; older and newer ones are refused by number."""

MANIFEST = "manifest.json"

NONE_WHOLE = "No whole checkpoint is before it: mend it from a copy, or choose another run_dir to start anew."

SPARE_BYTES = 2**20
"""Room for what is not a tensor: manifest, metrics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a checkpoint is: everything a resumed run needs to know before it loads a tensor."""

    project: str = PROJECT
    format: int = FORMAT
    step: int
    """Training steps that are complete."""
    prompts: int
    """Prompts taken from the stream so far."""
    ranks: int
    """Learner ranks that wrote it; any number can read it."""
    model: str
    """Where the run took its model from: frozen parameters are there, not here."""
    trajectory: Mapping[str, Any]
    """Every setting that decides the course of training; a resumed run must have the same."""
    weights_hash: str
    """SHA-256 of the policy as this number of ranks holds it."""
    versions: Mapping[str, str]
    files: Mapping[str, FileDigest]
    """Size and checksum of every file, by its path in the checkpoint."""


class CheckpointStore:
    """The checkpoints of a run, newest last, a bounded number of them."""

    def __init__(self, folder: Path, *, keep: int, hold: Hold | None = None) -> None:
        """Look after `folder`.

        Args:
            folder: Of the checkpoints.
            keep: How many.
            hold: The claim of whoever writes there; without, nobody else does.
        """
        self._folder = folder
        self._keep = keep
        self._hold = hold

    def check_hold(self) -> None:
        """Make sure that the checkpoints are still this driver's to write.

        Raises:
            TakenOverError: They are another's.
        """
        if self._hold is not None:
            self._hold.check()

    def discard_drafts(self) -> None:
        """Delete what interrupted writes left behind; for the one process that writes here."""
        self.check_hold()
        for leftover in self._folder.glob(".writing-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def begin(self, step: int, *, needed: int = 0) -> Path:
        """An empty folder to write the checkpoint of `step` into, of a name that no other attempt has.

        So a rank that was given up, but lives on behind a broken network, cannot write into what replaced its draft.

        Args:
            step: Training steps that are complete.
            needed: Bytes that will be written.

        Raises:
            StorageError: The folder cannot be written, or has too little room.
        """
        draft = self._folder / f".writing-{step:06d}-{secrets.token_hex(4)}"
        try:
            draft.mkdir(parents=True)
            free = shutil.disk_usage(draft).free
        except OSError as error:
            raise self.storage_error(error) from error
        if free < needed + SPARE_BYTES:
            shutil.rmtree(draft, ignore_errors=True)
            raise self.storage_error(
                f"it takes {needed / 2**20:.1f} MiB, and {free / 2**20:.1f} MiB are free: No space left on device"
            )
        return draft

    def publish(self, draft: Path, manifest: Manifest) -> Path:
        """Make a written folder the newest checkpoint, at once or not at all, and delete the oldest.

        Raises:
            StorageError: The manifest cannot be written.
            TakenOverError: Another driver has the run folder by now; nothing is published.
        """
        final = self.place_of(manifest.step)
        try:
            (draft / MANIFEST).write_text(_sealed(manifest), encoding="utf-8")
            force_to_disk(draft / MANIFEST)
            force_to_disk(draft)
            self.check_hold()
            draft.rename(final)  # fails on a folder with files: a checkpoint is never replaced, so it is always there
            force_to_disk(self._folder)
        except OSError as error:
            raise self.storage_error(error) from error
        for old in self.published()[: -self._keep]:
            # Renamed first, so that an interrupted deletion leaves no checkpoint with holes.
            doomed = old.with_name(f".writing-deleted-{old.name}")
            os.rename(old, doomed)
            shutil.rmtree(doomed, ignore_errors=True)
        return final

    def latest(self, *, checksums: bool = True) -> tuple[Path, Manifest] | None:
        """The newest checkpoint, checked; None if there is none.

        Args:
            checksums: Read all files to find changed ones; without, only missing and cut ones are found.

        Raises:
            CheckpointError: It is damaged, foreign or of another format; the message names the one before it that is
                whole, and how to go on from that.
        """
        published = self.published()
        if not published:
            return None
        try:
            return published[-1], read_manifest(published[-1], checksums=checksums)
        except CheckpointError as error:
            before = _newest_whole(published[:-1], checksums=checksums)
            way_out = (
                f"The newest whole one before it is {before}: add resume=last_good to go on from that; what is newer "
                "is set aside, not deleted."
                if before is not None
                else NONE_WHOLE
            )
            raise CheckpointError(f"{error} {way_out}") from error

    def last_good(self, *, checksums: bool = True, say: Callable[[str], None]) -> tuple[Path, Manifest] | None:
        """The newest whole checkpoint, None if there is none at all; what is newer is renamed, and `say` is told.

        Args:
            checksums: As for `latest`; each checkpoint is read once.
            say: Told what is wrong with each damaged one, and where it is now.

        Raises:
            CheckpointError: No checkpoint is whole, although there are some.
        """
        damaged: list[tuple[Path, CheckpointError]] = []
        for checkpoint in reversed(self.published()):
            try:
                found = checkpoint, read_manifest(checkpoint, checksums=checksums)
            except CheckpointError as error:
                damaged.append((checkpoint, error))
                continue
            for path, trouble in damaged:
                place = path.with_name(f"damaged-{path.name}")
                shutil.rmtree(place, ignore_errors=True)
                path.rename(place)
                say(f"{trouble} It is set aside as {place}.")
            return found
        if damaged:
            raise CheckpointError(f"{damaged[0][1]} {NONE_WHOLE}") from damaged[0][1]
        return None

    def place_of(self, step: int) -> Path:
        """Where the complete checkpoint of `step` is, or would be."""
        return self._folder / f"step-{step:06d}"

    def published(self) -> list[Path]:
        """The complete checkpoints, oldest first; nothing of them is checked."""
        return sorted(self._folder.glob("step-*"))

    def storage_error(self, error: object) -> StorageError:
        """That a checkpoint cannot be written, with what there is to go on from."""
        latest = self.published()
        kept = f"The last complete checkpoint is {latest[-1]}" if latest else "There is no complete checkpoint yet"
        return StorageError(
            f"cannot write a checkpoint into {self._folder}: {error}. {kept}. Free space or mend the permissions, then "
            "start the same command again."
        )


def read_manifest(checkpoint: Path, *, checksums: bool = True) -> Manifest:
    """Read a checkpoint's manifest, and check the checkpoint against it.

    Args:
        checkpoint: Its folder.
        checksums: Read all files to find changed ones; without, only missing and cut ones are found.

    Raises:
        CheckpointError: Not a checkpoint of this project and format, or damaged; the message says which and how.
    """
    try:
        fields = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{checkpoint} is no checkpoint: it has no {MANIFEST}.") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{checkpoint} is damaged: {MANIFEST} cannot be read ({error}).") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("format"), int):
        raise CheckpointError(f"{checkpoint} is no checkpoint of this project: {MANIFEST} names no format.")
    found = fields["format"]
    if found > FORMAT:
        raise CheckpointError(
            f"{checkpoint} was written by a newer version of this project: it has checkpoint format {found}, this "
            f"version reads format {FORMAT}. Update to go on from it."
        )
    if found < FORMAT:
        raise CheckpointError(
            f"{checkpoint} was written by an older version of this project: it has checkpoint format {found}, this "
            f"version reads format {FORMAT}."
        )
    if fields.get("project") != PROJECT:
        raise CheckpointError(
            f"{checkpoint} is no checkpoint of this project: its manifest is of {fields.get('project')!r}."
        )
    if fields.pop("checksum", None) != _checksum(fields):
        raise CheckpointError(f"{checkpoint} is damaged: {MANIFEST} was changed after it was written.")
    manifest = Manifest(**{**fields, "files": {name: FileDigest(**seen) for name, seen in fields["files"].items()}})
    if difference := describe_difference(checkpoint, manifest.files, checksums=checksums):
        raise CheckpointError(f"{checkpoint} is damaged: {difference}.")
    return manifest


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that a path means: itself, or the newest of a run folder.

    Raises:
        CheckpointError: There is none.
    """
    if (path / MANIFEST).exists():
        return path
    published = CheckpointStore(path / "checkpoints", keep=1).published()
    if not published:
        raise CheckpointError(
            f"{path} is neither a checkpoint (no {MANIFEST}) nor a run folder with one (no checkpoints/step-*)."
        )
    return published[-1]


def _sealed(manifest: Manifest) -> str:
    """The manifest as text, with a checksum of itself: a changed setting must not pass for another run."""
    fields = json.loads(json.dumps(asdict(manifest)))
    return json.dumps({**fields, "checksum": _checksum(fields)}, indent=1)


def _checksum(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _newest_whole(checkpoints: list[Path], *, checksums: bool) -> Path | None:
    for checkpoint in reversed(checkpoints):
        with contextlib.suppress(CheckpointError):
            read_manifest(checkpoint, checksums=checksums)
            return checkpoint
    return None
