"""Where a run begins, whether it is complete, and whether there is room to go on."""

import json
import shutil
from collections import namedtuple
from types import SimpleNamespace

import pytest

from delta.data.arithmetic import ArithmeticConfig
from delta.errors import StorageError
from tests.factories import make_prompt
from workers.controller.checkpoints import CheckpointStore, Manifest
from workers.controller.config import CheckpointConfig, TrainConfig
from workers.controller.loop import Controller
from workers.controller.starting_point import is_complete, starting_point
from workers.controller.trajectory import trajectory_of
from workers.warm_start.config import WarmStartModelConfig

PROMPTS = [make_prompt()]


def config(**changes):
    return TrainConfig(model=WarmStartModelConfig(), data=ArithmeticConfig(), **changes)


def publish(run_dir, *steps, keep=9):
    store = CheckpointStore(run_dir / "checkpoints", keep=keep)
    for step in steps:
        manifest = Manifest(
            step=step,
            prompts=0,
            ranks=1,
            model="",
            trajectory=trajectory_of(config(), PROMPTS),
            weights_hash="",
            versions={},
            files={},
        )
        store.publish(store.begin(step), manifest)
    return store


def finish(run_dir, *, steps):
    (run_dir / "export").mkdir(exist_ok=True)
    (run_dir / "export" / "config.json").touch()
    (run_dir / "summary.json").write_text(json.dumps({"steps": steps}))


def complete(run_dir, **changes):
    return is_complete(config(**changes), train=PROMPTS, run_dir=run_dir, say=print)


def test_a_run_is_complete_when_its_summary_is_of_its_last_step(tmp_path):
    assert not complete(tmp_path, steps=7)
    publish(tmp_path, 7)
    assert not complete(tmp_path, steps=7)
    finish(tmp_path, steps=7)
    assert complete(tmp_path, steps=7)
    assert not complete(tmp_path, steps=10)


def test_a_continued_run_that_ended_before_its_export_is_not_complete_with_that_of_before(tmp_path):
    publish(tmp_path, 7, 10)
    finish(tmp_path, steps=7)
    assert not complete(tmp_path, steps=10)
    (tmp_path / "summary.json").write_text("")
    assert not complete(tmp_path, steps=10)
    finish(tmp_path, steps=10)
    assert complete(tmp_path, steps=10)


def test_resume_from_means_the_same_checkpoint_throughout_a_run(tmp_path):
    """Also after a restart, when the other run has got further."""
    publish(tmp_path / "other", 3)
    own = CheckpointStore(tmp_path / "own" / "checkpoints", keep=2)
    settings = config(resume_from=str(tmp_path / "other"))
    first, _ = starting_point(settings, own, say=print)
    publish(tmp_path / "other", 4)
    again, manifest = starting_point(settings, own, say=print, began_from=first)
    assert (again, manifest.step) == (first, 3)
    assert starting_point(settings, own, say=print)[1].step == 4


def test_room_is_asked_for_what_is_still_missing(tmp_path, monkeypatch):
    """What a run has kept already takes no more room when it is resumed or starts again."""
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    run = SimpleNamespace(_config=config(checkpoint=CheckpointConfig(keep=2)), _checkpoints=store, _run_dir=tmp_path)
    usage = namedtuple("usage", "free")

    def check(free):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(free * 2**20))
        Controller._check_space(run, 100 * 2**20)

    check(free=300)
    with pytest.raises(StorageError, match="has 299 MiB free; 3 checkpoints of 100 MiB more take 300 MiB"):
        check(free=299)
    monkeypatch.undo()
    publish(tmp_path, 1, 2, keep=2)
    check(free=100)
    with pytest.raises(StorageError, match="has 99 MiB free; 1 checkpoint of 100 MiB more take 100 MiB"):
        check(free=99)
