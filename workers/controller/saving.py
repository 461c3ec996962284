"""When a run's checkpoints are taken, written and published: the step waits for the first only."""

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from delta.errors import StorageError
from workers.controller.checkpoints import CheckpointStore, Manifest
from workers.controller.trajectory import versions
from workers.files import FileDigest
from workers.learner.checkpoint import LEARNER
from workers.learner.group import LearnerGroup


class Saver:
    """Takes checkpoints of a learner group; at most one is being written.

    `take` returns as soon as every rank has a copy of its state in host memory. The ranks write, the controller
    publishes, and meanwhile the run goes on; `check` and `settle` are where a write that failed is heard of.
    """

    def __init__(
        self,
        store: CheckpointStore,
        learners: LearnerGroup,
        *,
        model: str,
        trajectory: Mapping[str, Any],
        say: Callable[[str], None],
    ) -> None:
        """Save into `store`.

        Args:
            store: Of the run.
            learners: Whose state is saved.
            model: Path or name of the model the run began with.
            trajectory: The settings that decide the course of training.
            say: Told about every checkpoint.
        """
        self._store = store
        self._learners = learners
        self._model = model
        self._trajectory = trajectory
        self._say = say
        self._writing: asyncio.Task[None] | None = None

    async def take(self, *, step: int, prompts: int) -> None:
        """Take the state after `step` steps, once the checkpoint before is out; nothing if it is on the disk already.

        Raises:
            StorageError: There is no room for it, or the one before could not be written.
        """
        await self.settle()
        if self._store.place_of(step).exists():  # an interruption right after a scheduled checkpoint, or a resume
            return
        started = time.perf_counter()
        needed = await self._learners.stage()
        stalled_s = time.perf_counter() - started
        draft = self._store.begin(step, needed=needed)
        self._writing = asyncio.create_task(self._write(draft, step=step, prompts=prompts, stalled_s=stalled_s))

    def check(self) -> None:
        """Raise what the write in progress failed with, if it has failed.

        Raises:
            StorageError: It could not be written; the message names the last complete one.
        """
        if self._writing is not None and self._writing.done():
            writing, self._writing = self._writing, None
            writing.result()

    async def settle(self) -> None:
        """Wait until the checkpoint in progress is published.

        Raises:
            StorageError: It could not be written; the message names the last complete one.
        """
        if self._writing is not None:
            writing, self._writing = self._writing, None
            await writing

    async def settle_quietly(self) -> None:
        """Let the checkpoint in progress be published if it can be: something else has gone wrong already."""
        if self._writing is not None:
            await asyncio.gather(self._writing, return_exceptions=True)
            self._writing = None

    async def drop(self) -> None:
        """Give up the checkpoint in progress: those who write it are about to be ended."""
        if self._writing is not None:
            self._writing.cancel()
            await self.settle_quietly()

    async def _write(self, draft: Path, *, step: int, prompts: int, stalled_s: float) -> None:
        started = time.perf_counter()
        try:
            files = await self._learners.write(draft)
        except StorageError as error:
            raise self._store.storage_error(error) from error
        manifest = Manifest(
            step=step,
            prompts=prompts,
            ranks=self._learners.num_ranks,
            model=self._model,
            trajectory=self._trajectory,
            weights_hash=weights_hash(files),
            versions=versions(),
            files=files,
        )
        publishing = asyncio.ensure_future(asyncio.to_thread(self._store.publish, draft, manifest))
        try:
            folder = await asyncio.shield(publishing)
        except asyncio.CancelledError:
            await publishing  # it is moments away from its end, and nobody may clear its draft away meanwhile
            raise
        size = sum(seen.size for seen in files.values())
        self._say(
            f"checkpoint {folder} ({size / 2**20:.1f} MiB; the run waited {stalled_s:.2f} s, written in "
            f"{time.perf_counter() - started:.2f} s)"
        )


def weights_hash(files: Mapping[str, FileDigest]) -> str:
    """SHA-256 of the policy as its ranks hold it: of the checksums of their weight shards, in order."""
    names = sorted(name for name in files if name.startswith(f"{LEARNER}/weights-"))
    return hashlib.sha256("".join(files[name].sha256 for name in names).encode()).hexdigest()
