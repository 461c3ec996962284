"""A sweep on this machine: one member fails, one is preempted, and the same command goes on with both."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from launch.command import EXIT_MEMBERS, EXIT_PREEMPTED
from launch.sweep.record import read_sweep
from launch.sweep.runs import find_members
from tests.conftest import ROOT, TINY, Train, command
from tests.integration.runs import TIMEOUT_S, catch, kill_what_is_left, processes_of, rows
from workers.controller.metrics import JsonLines

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]

# A length that the model does not have is found by the run of the member itself.
OVERRIDES = (*TINY, "learner.num_ranks=1", "steps=3", "rollout.max_model_len=4096,512")


@contextmanager
def sweeping(folder: Path, output: Path) -> Iterator[subprocess.Popen]:
    """The command, its descendants marked, its output in a file; nothing of it outlives the block."""
    with output.open("w") as file:
        process = subprocess.Popen(
            command(["--multirun", *OVERRIDES, f"sweep={folder}"]),
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "DELTA_TEST_RUN": str(folder)},
            start_new_session=True,
        )
    process.stdout = output.open()  # what is shown by a wait that fails
    try:
        yield process
    finally:
        kill_what_is_left(folder)
        process.wait()
        process.stdout.close()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_sweep_goes_on_with_what_failed_or_was_preempted_and_skips_what_is_complete(
    train_in_fork: Train, tmp_path, shared_memory
):
    folder, said = tmp_path / "sweep", tmp_path / "said"
    with sweeping(folder, said) as process:
        learner = catch(folder, "LearnerWorker.update", process)  # the second member's: the first has failed by then
        process.send_signal(signal.SIGTERM)  # to the sweep
        wait_until(lambda: "SIGTERM is passed on to the member" in said.read_text())
        os.kill(learner, signal.SIGCONT)
        assert process.wait(TIMEOUT_S) == EXIT_PREEMPTED, said.read_text()[-3000:]
        assert processes_of(folder) == []
    failed, preempted = read_sweep(folder).members
    done = len(rows(preempted.run_dir))
    assert 1 <= done < 3
    assert [found.status.text for found in find_members(folder)] == [
        "failed: rollout.max_model_len=4096 is longer than the model's context (model.max_positions=2048); lower it to "
        "that.",
        f"preempted at step {done}",
    ]
    assert "the sweep was ended by SIGTERM; the same command goes on." in said.read_text()

    with sweeping(folder, said) as process:
        assert process.wait(TIMEOUT_S) == EXIT_MEMBERS, said.read_text()[-3000:]
    text = said.read_text()
    assert f"resumed from {preempted.run_dir}/checkpoints/step-{done:06d}" in text
    assert f"{failed.name} failed; the end of {failed.run_dir}/output.log:" in text
    assert [row["step"] for row in rows(preempted.run_dir)] == [1, 2, 3]
    began = [row["member"] for row in JsonLines(folder / "events.jsonl").rows() if row["what"] == "started"]
    assert began == [failed.name, preempted.name] * 2

    # Mended by leaving it out: the complete one is skipped, and nothing is started.
    only = ("rollout.max_model_len=choice(512)", f"sweep={folder}")
    assert "1 members, 1 of them complete" in train_in_fork("-m", *OVERRIDES[:-1], *only, check=True).stdout
