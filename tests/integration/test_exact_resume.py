"""A run that is killed again and again ends as if nobody had touched it: tokens, verdicts, losses, weights."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Train
from tests.integration.runs import RUN, STEPS, course, measured, rows, wait_until_gone, weights_hash

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]


def run_and_die(run_dir: Path, point: str, cache: Path) -> str:
    """Start or go on with the run until it kills itself; what it said."""
    died = subprocess.run(
        [sys.executable, "-m", "tests.integration.killed", *RUN, f"run_dir={run_dir}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,  # the warm start may be in it
        env={**os.environ, "DELTA_TEST_RUN": str(run_dir), "DELTA_KILL": point, "DELTA_CACHE": str(cache)},
    )
    assert died.returncode == -signal.SIGKILL, point + died.stdout[-3000:] + died.stderr[-3000:]
    wait_until_gone(run_dir)
    return died.stdout


def published(run_dir: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in sorted((run_dir / "checkpoints").glob("step-*"))]


def test_kills_at_every_kind_of_point_and_at_random_leave_no_trace(uninterrupted, train: Train, tmp_path, monkeypatch):
    run_dir, cache = tmp_path / "killed", tmp_path / "cache"
    epochs = [row["epoch"] for row in rows(uninterrupted)]
    assert [int(epoch) for epoch in epochs] == [0, 0, 1, 1, 2, 2, 2]
    assert len({row["rollout/digest"] for row in rows(uninterrupted)}) == STEPS

    run_and_die(run_dir, "in_warm_start:150", cache)
    assert not list((cache / "warm_start").glob("[!.]*"))

    # The batch of step 3 has the end of an epoch inside. Its row is there, and so it is to be repeated; that of the
    # next step may be, for checkpoints are written while that is trained.
    run_and_die(run_dir, "between_draft_and_publish:3", cache)
    assert published(run_dir) == [1, 2]
    assert list((run_dir / "checkpoints").glob(".writing-000003-*/manifest.json"))
    assert len(rows(run_dir)) >= 3
    assert course(run_dir) == course(uninterrupted)[: len(rows(run_dir))]

    said = run_and_die(run_dir, "in_weight_sync:4", cache)
    assert "resumed from" in said
    assert max(published(run_dir)) <= 3
    assert course(run_dir) == course(uninterrupted)[:3]

    run_and_die(run_dir, "while_shards_are_written:4", cache)
    assert max(published(run_dir)) == 3
    assert list((run_dir / "checkpoints").glob(".writing-000004-*/**/*.safetensors"))

    seed = random.randrange(2**32)
    run_and_die(run_dir, f"at_random:{seed}", cache)
    assert 4 <= len(rows(run_dir)) <= STEPS

    monkeypatch.setenv("DELTA_CACHE", str(cache))
    finished = train(*RUN, f"run_dir={run_dir}", check=True)
    assert "resumed from" in finished.stdout
    assert course(run_dir) == course(uninterrupted), f"killed at random with seed {seed}"
    assert measured(run_dir) == measured(uninterrupted)
    for step in range(1, STEPS + 1):
        assert weights_hash(run_dir, step) == weights_hash(uninterrupted, step), f"killed at random with seed {seed}"
    assert published(run_dir) == list(range(1, STEPS + 1))
    assert not list((run_dir / "checkpoints").glob(".*"))
    exported = [next((run / "export").glob("*.safetensors")).read_bytes() for run in (run_dir, uninterrupted)]
    assert exported[0] == exported[1]


def test_a_damaged_checkpoint_is_refused_and_the_one_before_goes_on_with_another_number_of_ranks(
    uninterrupted, train: Train, train_in_fork: Train, tmp_path
):
    """From a copy of the run: a bit flips in the newest checkpoint; `resume=last_good` repeats the steps since."""
    source = uninterrupted / "checkpoints" / f"step-{STEPS - 1:06d}"
    run_dir = tmp_path / "elsewhere"
    more = [*RUN, f"steps={STEPS + 1}", f"run_dir={run_dir}"]

    began = train(*more, f"steps={STEPS}", f"resume_from={source}", "learner.num_ranks=1", check=True)
    assert f"resumed from {source}" in began.stdout.replace("\n", "")
    assert "written by 2 learner ranks" in began.stdout
    (row,) = course(run_dir)
    for name, value in course(uninterrupted)[-1].items():
        assert row[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name  # the same tokens, gradients up to rounding
    assert row["rollout/digest"] == course(uninterrupted)[-1]["rollout/digest"]

    newest = run_dir / "checkpoints" / f"step-{STEPS:06d}"
    before = newest.with_name(source.name)
    shutil.copytree(source, before)
    (shard,) = newest.glob("learner/weights-*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    refused = train_in_fork(*more)
    assert refused.returncode == 2
    assert "starting engine" not in refused.stdout
    message = refused.stderr.replace("\n", "")
    assert f"{newest} is damaged: learner/{shard.name} was changed after it was written" in message
    assert f"The newest whole one before it is {before}: add resume=last_good" in message

    went_on = train(*more, "resume=last_good", check=True)
    assert "set aside" in went_on.stdout
    assert [row["step"] for row in rows(run_dir)] == [STEPS, STEPS + 1]
    assert course(run_dir)[0] == course(uninterrupted)[-1]  # two ranks again: to the bit
    assert json.loads((newest / "manifest.json").read_text())["ranks"] == 2
