"""Rows survive crashes and resumes; trackers may fail, the run does not."""

import resource
import warnings

import pytest

from delta.errors import StorageError
from workers.controller.metrics import JsonLines, LoggerConfig, Tracker, WandbMode


def test_rows_are_appended_and_cut_back_to_a_step(tmp_path):
    lines = JsonLines(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        lines.append({"step": step, "reward": step / 2})
    lines.cut(last_step=2)
    lines.append({"step": 3, "reward": 9})
    assert [row["reward"] for row in lines.rows()] == [0.5, 1.0, 9]


def test_a_row_that_a_crash_cut_off_is_ignored(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "rew')
    lines = JsonLines(path)
    assert lines.rows() == [{"step": 1}]
    lines.cut(last_step=5)
    assert path.read_text() == '{"step": 1}\n'


def test_a_full_disk_is_reported_with_the_way_on(tmp_path):
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"No space left.*start the same command again"):
        JsonLines(tmp_path / "full").append({"step": 1})


def test_cutting_that_fails_half_way_loses_no_row(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = JsonLines(path)
    for step in range(9):
        lines.append({"step": step})
    before = path.read_text()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))  # a file may have 20 bytes: the disk is full
    try:
        with pytest.raises(StorageError, match=r"cannot write .*metrics.jsonl.*start the same command again"):
            lines.cut(last_step=5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_tracker_that_fails_is_switched_off_with_one_warning(tmp_path):
    tracker = Tracker(LoggerConfig(wandb=WandbMode.disabled), run_dir=tmp_path, settings={})
    calls = []

    def send(row, step):
        calls.append(step)
        raise ConnectionError("no route")

    tracker._sinks["remote"] = (send, lambda: None)
    with pytest.warns(UserWarning, match="remote failed and is switched off: no route"):
        tracker.log({"a": 1.0}, step=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracker.log({"a": 1.0}, step=2)
        tracker.close()
    assert calls == [1]


@pytest.mark.slow
def test_wandb_offline_and_tensorboard_write_to_the_run_folder(tmp_path):
    config = LoggerConfig(wandb=WandbMode.offline, tensorboard=True)
    tracker = Tracker(config, run_dir=tmp_path, settings={"seed": 1})
    tracker.log({"reward/mean": 0.5}, step=1)
    tracker.close()
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert list((tmp_path / "tensorboard").glob("events.*"))
