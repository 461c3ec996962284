"""The training command, which kills itself at a chosen point: `DELTA_KILL=<point>:<number> python -m ... OVERRIDES`.

SIGKILL to the driver, as a scheduler or the kernel would send it: nobody cleans up, Ray's processes die with it. The
points lie where state is half moved, and one anywhere; everything before and after them is the real thing. The number
is that of the step, at random a seed.
"""

import asyncio
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import workers.controller.checkpoints as checkpoints
import workers.warm_start.make as make
from launch.train import main
from workers.controller.loop import Controller
from workers.learner.group import LearnerGroup


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_warm_start(step: int) -> None:
    """While the model is taught."""
    teach = make.teach

    def dying(*args: Any, **kwargs: Any) -> Iterator[int]:
        for done in teach(*args, **kwargs):
            if done == step:
                die()
            yield done

    make.teach = dying


def while_shards_are_written(step: int) -> None:
    """Some files of the draft are there, perhaps not whole."""
    write = LearnerGroup.write

    async def dying(self: LearnerGroup, folder: Path) -> Any:
        if not folder.name.startswith(f".writing-{step:06d}-"):
            return await write(self, folder)
        writing = asyncio.ensure_future(write(self, folder))
        while not list(folder.rglob("*.safetensors")) and not writing.done():
            await asyncio.sleep(0)
        die()

    LearnerGroup.write = dying


def between_draft_and_publish(step: int) -> None:
    """All files and the manifest are written, the rename is not done."""
    force = checkpoints.force_to_disk

    def dying(path: Path) -> None:
        force(path)
        if path.name.startswith(f".writing-{step:06d}-"):
            die()

    checkpoints.force_to_disk = dying


def in_weight_sync(step: int) -> None:
    """The learners have the new policy; engines have some of it."""
    publish = LearnerGroup.publish

    async def dying(self: LearnerGroup, policy_version: int) -> None:
        if policy_version != step:
            return await publish(self, policy_version)
        sending = asyncio.ensure_future(publish(self, policy_version))
        await asyncio.wait({sending}, timeout=0.02)
        die()

    LearnerGroup.publish = dying


def at_random(seed: int) -> None:
    """Half a second after step 4 or 5 at most, at a moment that the seed chooses, whatever is being done then."""
    chosen = random.Random(seed)
    step, delay_s = chosen.choice((4, 5)), chosen.uniform(0, 0.5)
    record = Controller._record

    def dying(self: Controller, row: Any) -> None:
        record(self, row)
        if row["step"] == step:
            threading.Timer(delay_s, die).start()
        elif row["step"] == step + 2:  # steps are quick here; but the run must not get to its end
            die()

    Controller._record = dying


POINTS: dict[str, Callable[[int], None]] = {
    point.__name__: point
    for point in (in_warm_start, while_shards_are_written, between_draft_and_publish, in_weight_sync, at_random)
}

if __name__ == "__main__":
    name, number = os.environ["DELTA_KILL"].split(":")
    POINTS[name](int(number))
    main()
