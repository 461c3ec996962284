"""A run that is killed again and again ends as if nobody had touched it: tokens, verdicts, losses, weights."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, TINY, Train
from tests.integration.runs import processes_of, rows, start, wait_for_step, weights_hash
from workers.controller.metrics import JsonLines

pytestmark = [pytest.mark.ray, pytest.mark.slow]

STEPS = 7
PROBLEMS = 20
"""An epoch: steps of 8 prompts cross its end in the middle of steps 3 and 5."""

RUN = (
    *(name for name in TINY if not name.startswith("model.")),
    "rollout.num_workers=2",
    "model.hidden_size=64",
    "model.steps=300",
    f"data.problems={PROBLEMS}",
    f"steps={STEPS}",
    "evaluation.every=3",
    "checkpoint.every=1",
    "checkpoint.keep=10",
    "seed=5",
)


def course(run_dir: Path) -> list[dict[str, float]]:
    """Metrics by step, without what a clock says, or how far the verifier's cache has filled since its start."""
    return [
        {name: value for name, value in row.items() if not name.endswith("_s") and not name.startswith("verifier/")}
        for row in rows(run_dir)
    ]


def measured(run_dir: Path) -> list[dict]:
    return JsonLines(run_dir / "evaluations.jsonl").rows()


def wait_until_gone(run_dir: Path, timeout_s: float = 180) -> None:
    """Ray's processes follow their driver, its agents in their own time."""
    deadline = time.monotonic() + timeout_s
    while processes_of(run_dir) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes_of(run_dir) == []


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody touches; its warm start fills the session's cache."""
    run_dir = tmp_path_factory.mktemp("run") / "untouched"
    process = start(run_dir, *RUN)
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output[-3000:]
    return run_dir


def run_and_die(run_dir: Path, point: str, cache: Path) -> str:
    """Start or go on with the run until it kills itself; what it said."""
    died = subprocess.run(
        [sys.executable, "-m", "tests.integration.killed", *RUN, f"run_dir={run_dir}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
        env={**os.environ, "DELTA_TEST_RUN": str(run_dir), "DELTA_KILL": point, "DELTA_CACHE": str(cache)},
    )
    assert died.returncode == -signal.SIGKILL, died.stdout[-3000:] + died.stderr[-3000:]
    wait_until_gone(run_dir)
    return died.stdout


def published(run_dir: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in sorted((run_dir / "checkpoints").glob("step-*"))]


def test_kills_at_every_kind_of_point_and_at_random_leave_no_trace(untouched, train: Train, tmp_path, monkeypatch):
    run_dir, cache = tmp_path / "killed", tmp_path / "cache"
    epochs = [row["epoch"] for row in rows(untouched)]
    assert [int(epoch) for epoch in epochs] == [0, 0, 1, 1, 2, 2, 2]
    assert len({row["rollout/digest"] for row in rows(untouched)}) == STEPS

    run_and_die(run_dir, "in_warm_start:150", cache)
    assert not list((cache / "warm_start").glob("[!.]*"))

    run_and_die(run_dir, "between_draft_and_publish:2", cache)
    assert published(run_dir) == [1]
    assert (run_dir / "checkpoints" / ".writing-000002" / "manifest.json").exists()

    said = run_and_die(run_dir, "in_weight_sync:3", cache)
    assert "resumed from" in said
    assert max(published(run_dir)) <= 2

    run_and_die(run_dir, "after_step:3", cache)  # its batch has the end of an epoch inside
    assert course(run_dir) == course(untouched)[:3]

    run_and_die(run_dir, "while_shards_are_written:4", cache)
    assert max(published(run_dir)) == 3

    monkeypatch.setenv("DELTA_CACHE", str(cache))
    process = start(run_dir, *RUN)
    wait_for_step(run_dir, 4, process)
    seed = random.randrange(2**32)
    time.sleep(random.Random(seed).uniform(0, 2))
    process.kill()
    process.wait()
    wait_until_gone(run_dir)

    finished = train(*RUN, f"run_dir={run_dir}", check=True)
    assert "resumed from" in finished.stdout
    assert course(run_dir) == course(untouched), f"killed at random with seed {seed}"
    assert measured(run_dir) == measured(untouched)
    for step in range(1, STEPS + 1):
        assert weights_hash(run_dir, step) == weights_hash(untouched, step)
    assert published(run_dir) == list(range(1, STEPS + 1))
    assert not list((run_dir / "checkpoints").glob(".*"))
    exported = [next((run / "export").glob("*.safetensors")).read_bytes() for run in (run_dir, untouched)]
    assert exported[0] == exported[1]


def test_a_damaged_checkpoint_is_refused_and_the_one_before_goes_on_with_another_number_of_ranks(
    untouched, train: Train, tmp_path
):
    """From a copy of the run: a bit flips in the newest checkpoint; `resume=last_good` repeats the steps since."""
    source = untouched / "checkpoints" / f"step-{STEPS - 1:06d}"
    run_dir = tmp_path / "elsewhere"
    more = [*RUN, f"steps={STEPS + 1}", f"run_dir={run_dir}"]

    began = train(*more, f"steps={STEPS}", f"resume_from={source}", "learner.num_ranks=1", check=True)
    assert f"resumed from {source}" in began.stdout.replace("\n", "")
    assert "written by 2 learner ranks" in began.stdout
    (row,) = course(run_dir)
    for name, value in course(untouched)[-1].items():
        assert row[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name  # the same tokens, gradients up to rounding
    assert row["rollout/digest"] == course(untouched)[-1]["rollout/digest"]

    newest = run_dir / "checkpoints" / f"step-{STEPS:06d}"
    before = newest.with_name(source.name)
    shutil.copytree(source, before)
    (shard,) = newest.glob("learner/weights-*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    refused = train(*more)
    assert refused.returncode == 2
    assert "starting engine" not in refused.stdout
    message = refused.stderr.replace("\n", "")
    assert f"{newest} is damaged: learner/{shard.name} was changed after it was written" in message
    assert f"The newest whole one before it is {before}: add resume=last_good" in message

    went_on = train(*more, "resume=last_good", check=True)
    assert "set aside" in went_on.stdout
    assert [row["step"] for row in rows(run_dir)] == [STEPS, STEPS + 1]
    assert course(run_dir)[0] == course(untouched)[-1]  # two ranks again: to the bit
    assert json.loads((newest / "manifest.json").read_text())["ranks"] == 2
