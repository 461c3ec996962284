"""Files that have to survive a crash: forced to the disk, and known by their checksums."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from delta.errors import StorageError

DIGEST_THREADS = 8
"""Files whose checksums are computed at once; hashing one file keeps one core busy."""


@dataclass(frozen=True, slots=True)
class FileDigest:
    """What a file holds, in short."""

    size: int
    """Bytes."""
    sha256: str
    """Hexadecimal."""


@contextlib.contextmanager
def storage_errors(what: str, *, remedy: str = "") -> Iterator[None]:
    """Where the block cannot write a file, say so; safetensors has an error of its own for a full disk.

    Args:
        what: What is being written, or by whom.
        remedy: What to do, as a sentence.

    Raises:
        StorageError: It cannot be written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{what}: {error}{f'. {remedy}' if remedy else ''}") from error


def write_whole(path: Path, text: str) -> None:
    """Replace a file's content at once or not at all: a full disk, or a kill, leaves the old one.

    Raises:
        OSError: It cannot be written.
    """
    draft = path.with_name(f".writing-{path.name}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def replace_folder(draft: Path, final: Path) -> None:
    """Put a finished folder in its place; what was there before is renamed away first, then deleted."""
    doomed = final.with_name(f".writing-replaced-{final.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    if final.exists():
        final.rename(doomed)
    draft.rename(final)
    shutil.rmtree(doomed, ignore_errors=True)


def digest(path: Path) -> FileDigest:
    """Size and checksum of a file's content.

    Raises:
        OSError: It cannot be read; its `filename` says which.
    """
    try:
        with path.open("rb") as file:
            return FileDigest(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())
    except OSError as error:  # reading, unlike opening, does not say what
        raise OSError(error.errno, error.strerror, str(path)) from error


def digests(folder: Path, names: Iterable[str]) -> dict[str, FileDigest]:
    """Size and checksum of files by their path in `folder`, several at once."""
    names = list(names)
    with ThreadPoolExecutor(DIGEST_THREADS) as threads:
        return dict(zip(names, threads.map(lambda name: digest(folder / name), names), strict=True))


def files_in(folder: Path) -> list[str]:
    """Every file under `folder`, by its path in it, sorted."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def force_to_disk(path: Path) -> None:
    """Return when the content of a file, or the entries of a folder, would survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def describe_difference(folder: Path, expected: Mapping[str, FileDigest], *, checksums: bool) -> str | None:
    """What is wrong with the files of `folder`, in words; None if they are as expected.

    Args:
        folder: To look at; files that nobody expects do not matter.
        expected: By path in `folder`.
        checksums: Read the files too; without, only missing and cut ones are found.
    """
    for name, wanted in expected.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if (size := (folder / name).stat().st_size) != wanted.size:
            return f"{name} has {size:,} bytes, {wanted.size:,} were written"
    if checksums:
        try:
            seen = digests(folder, expected)
        except OSError as error:  # a disk that fails
            return f"{Path(error.filename).relative_to(folder)} cannot be read ({error.strerror})"
        for name, found in seen.items():
            if found.sha256 != expected[name].sha256:
                return (
                    f"{name} was changed after it was written (SHA-256 {found.sha256[:12]}..., "
                    f"expected {expected[name].sha256[:12]}...)"
                )
    return None
