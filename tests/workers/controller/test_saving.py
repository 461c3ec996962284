"""Checkpoints are written beside the run, one at a time, once each; what goes wrong is heard of."""

import asyncio
import threading

import pytest

from delta.errors import StorageError
from workers.controller.checkpoints import CheckpointStore
from workers.controller.saving import Saver
from workers.files import digests, files_in


class FakeLearners:
    """Write a file each time, once they are allowed to; counts how often their state was copied."""

    num_ranks = 1

    def __init__(self):
        self.staged = 0
        self.allowed = asyncio.Event()
        self.allowed.set()
        self.trouble = None

    async def stage(self):
        self.staged += 1
        return 100

    async def write(self, folder):
        await self.allowed.wait()
        if self.trouble:
            raise self.trouble
        (folder / "learner").mkdir()
        (folder / "learner" / "weights-1").write_bytes(bytes([self.staged]) * 100)
        return digests(folder, files_in(folder))


def saver(folder, learners, store=CheckpointStore):
    return Saver(store(folder, keep=2), learners, model="m", trajectory={}, say=lambda text: None)


def steps(folder):
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


def test_the_run_waits_for_the_copy_only_and_the_next_checkpoint_for_the_one_before(tmp_path):
    async def main():
        learners = FakeLearners()
        learners.allowed.clear()
        saving = saver(tmp_path, learners)
        await saving.take(step=2, prompts=8)
        saving.check()
        assert steps(tmp_path) == []
        second = asyncio.create_task(saving.take(step=4, prompts=16))
        await asyncio.sleep(0.05)
        assert learners.staged == 1
        learners.allowed.set()
        await second
        assert steps(tmp_path) == [2]
        await saving.settle()
        assert steps(tmp_path) == [2, 4]

    asyncio.run(main())


def test_what_is_on_the_disk_is_not_written_again(tmp_path):
    """An interruption right after a scheduled checkpoint, or right after the run has resumed from one."""

    async def main():
        learners = FakeLearners()
        saving = saver(tmp_path, learners)
        await saving.take(step=2, prompts=8)
        await saving.take(step=2, prompts=8)
        await saver(tmp_path, learners).take(step=2, prompts=8)
        assert learners.staged == 1
        assert steps(tmp_path) == [2]

    asyncio.run(main())


def test_a_failed_write_is_heard_of_once_and_names_what_there_is(tmp_path):
    async def main():
        learners = FakeLearners()
        saving = saver(tmp_path, learners)
        await saving.take(step=2, prompts=8)
        await saving.settle()
        learners.trouble = StorageError("learner rank 0: No space left on device")
        await saving.take(step=4, prompts=16)
        await asyncio.sleep(0.05)
        with pytest.raises(
            StorageError, match=r"No space left on device. The last complete checkpoint is .*step-000002"
        ):
            saving.check()
        saving.check()
        await saving.settle()
        assert steps(tmp_path) == [2]

    asyncio.run(main())


def test_a_checkpoint_that_is_dropped_while_it_is_published_is_published(tmp_path):
    publishing, allowed = threading.Event(), threading.Event()

    class SlowStore(CheckpointStore):
        def publish(self, draft, manifest):
            publishing.set()
            assert allowed.wait(30)
            return super().publish(draft, manifest)

    async def main():
        saving = saver(tmp_path, FakeLearners(), SlowStore)
        await saving.take(step=2, prompts=8)
        await asyncio.to_thread(publishing.wait, 30)
        dropping = asyncio.create_task(saving.drop())
        await asyncio.sleep(0.05)
        assert not dropping.done()
        allowed.set()
        await dropping
        assert steps(tmp_path) == [2]

    asyncio.run(main())


def test_a_checkpoint_that_hangs_can_be_dropped(tmp_path):
    async def main():
        learners = FakeLearners()
        learners.allowed.clear()
        saving = saver(tmp_path, learners)
        await saving.take(step=2, prompts=8)
        await saving.drop()
        await saving.settle()
        assert steps(tmp_path) == []

    asyncio.run(main())
