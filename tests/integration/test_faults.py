"""Preemption and faults on the real stack: a run ends in order, or goes on by itself, and is the same run."""

import contextlib
import os
import signal
import subprocess

import pytest

from tests.conftest import Train
from tests.integration.conftest import Start
from tests.integration.runs import (
    RUN,
    STEPS,
    TIMEOUT_S,
    catch,
    course,
    engines,
    faults,
    marked,
    measured,
    processes_of,
    rows,
    update_stopped,
    wait_for_faults,
    wait_for_step,
    wait_until_replaced,
    weights_hash,
)
from workers.controller.checkpoints import CheckpointStore

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

PREEMPTED, EXHAUSTED = 75, 71


def end_of(process: subprocess.Popen, code: int) -> str:
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == code, output[-3000:]
    assert "Traceback" not in output
    return output


def test_a_preempted_run_goes_on_as_if_nothing_had_been(
    uninterrupted, start: Start, train: Train, tmp_path, shared_memory
):
    run_dir = tmp_path / "preempted"
    process = start(run_dir, *RUN, "checkpoint.every=100")
    wait_for_step(run_dir, 1, process)
    with update_stopped(run_dir, process) as step:
        process.send_signal(signal.SIGUSR1)
    output = end_of(process, PREEMPTED)
    assert "interrupted by SIGUSR1. Go on with: delta-train" in output
    assert [row["step"] for row in rows(run_dir)] == list(range(1, step + 1))  # the update was finished, none begun
    assert step < STEPS
    assert weights_hash(run_dir, step)
    assert processes_of(run_dir) == []

    process = start(run_dir, *RUN)
    os.kill(catch(run_dir, "LearnerWorker.set_up", process), signal.SIGCONT)
    process.send_signal(signal.SIGTERM)  # while it starts
    end_of(process, PREEMPTED)
    assert weights_hash(run_dir, step)
    assert processes_of(run_dir) == []

    train(*RUN, "checkpoint.every=2", "checkpoint.keep=2", f"run_dir={run_dir}", check=True)
    assert course(run_dir) == course(uninterrupted)
    assert weights_hash(run_dir, STEPS) == weights_hash(uninterrupted, STEPS)
    assert measured(run_dir) == measured(uninterrupted)
    assert faults(run_dir) == []  # a preemption is none
    kept = sorted(path.name for path in (run_dir / "checkpoints").iterdir())
    assert kept == ["step-000006", "step-000007"]


def test_what_cannot_be_finished_is_given_up_without_damage(start: Start, tmp_path, shared_memory):
    """A learner is stopped in the middle of an update, so nothing but force, at the end of the grace, can end the run.

    A second signal is told apart in tests/workers/controller/test_interruption.py; it comes to the same.
    """
    run_dir = tmp_path / "given_up"
    process = start(run_dir, *RUN, "steps=500", "faults.grace_s=1")
    wait_for_step(run_dir, 2, process)
    catch(run_dir, "LearnerWorker.update", process)
    done = max(row["step"] for row in rows(run_dir))
    process.send_signal(signal.SIGTERM)
    end_of(process, PREEMPTED)
    assert processes_of(run_dir) == []
    _, manifest = CheckpointStore(run_dir / "checkpoints", keep=2).latest()  # raises if it is damaged
    assert manifest.step >= done - 1  # that of the step before may still have been in the air


def test_a_signal_to_every_process_at_once_ends_the_run_too(start: Start, tmp_path, shared_memory):
    """As plain `scancel` sends it: Ray goes under the driver's feet."""
    run_dir = tmp_path / "cancelled"
    process = start(run_dir, *RUN, "steps=500")
    wait_for_step(run_dir, 2, process)
    done = max(row["step"] for row in rows(run_dir))
    for pid in marked(run_dir):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    end_of(process, PREEMPTED)
    assert processes_of(run_dir) == []
    assert CheckpointStore(run_dir / "checkpoints", keep=2).latest()[1].step >= done - 1


def test_processes_that_die_or_hang_are_replaced_and_the_run_is_the_same(
    uninterrupted, start: Start, tmp_path, shared_memory
):
    run_dir = tmp_path / "bereaved"
    process = start(run_dir, *RUN, "checkpoint.every=2", "faults.deadlines.generation_s=15")
    wait_for_step(run_dir, 2, process)
    os.kill(catch(run_dir, "LearnerWorker.update", process), signal.SIGKILL)
    wait_for_faults(run_dir, 1, process)
    engine = catch(run_dir, "RolloutWorker.generate", process)
    old = engines(run_dir)
    os.kill(engine, signal.SIGKILL)
    wait_for_faults(run_dir, 2, process)
    wait_until_replaced(run_dir, old)  # the other one may be sampling still, for nobody
    catch(run_dir, "RolloutWorker.generate", process)  # and leave it stopped
    output = end_of(process, 0)

    learner, engine, hanging = faults(run_dir)
    assert learner["who"].startswith("learner rank ")
    assert learner["phase"] == "update"
    assert learner["action"] == "restart 1 of 3"
    assert "worker process has died" in learner["cause"]
    assert engine["who"].startswith("rollout worker ")
    assert engine["phase"] == "generation"
    assert engine["action"].startswith("new engines")
    assert hanging["who"].startswith("rollout worker ")
    assert hanging["phase"] == "generation"
    assert hanging["action"].startswith("new engines")
    assert "no answer within 15 s; see stall-" in hanging["cause"]
    assert f"{learner['who']} died in update after step {learner['step']}" in output
    assert "faults: 3 (" in output

    assert course(run_dir) == course(uninterrupted)
    assert weights_hash(run_dir, STEPS) == weights_hash(uninterrupted, STEPS)
    assert measured(run_dir) == measured(uninterrupted)
    assert processes_of(run_dir) == []


def test_a_hang_is_reported_and_what_happens_too_often_ends_the_run(start: Start, tmp_path, shared_memory):
    run_dir = tmp_path / "hanging"
    process = start(run_dir, *RUN, "steps=500", "faults.max_restarts=1", "faults.deadlines.update_s=15")
    wait_for_step(run_dir, 1, process)
    stopped = catch(run_dir, "LearnerWorker.update", process)
    wait_for_faults(run_dir, 1, process)
    (hang,) = faults(run_dir)
    assert (hang["phase"], hang["action"]) == ("update", "restart 1 of 1")
    assert "learner rank" in hang["who"]
    report = (run_dir / f"stall-{hang['step']:06d}.txt").read_text()
    assert f"last good step  {hang['step']}" in report
    assert f"{stopped}  stopped" in report
    assert "Stacks of process" in report
    if "could not read it" not in report:
        assert "update (workers/learner/learner.py" in report

    os.kill(catch(run_dir, "LearnerWorker.set_up", process), signal.SIGCONT)  # those that hung are gone
    os.kill(catch(run_dir, "LearnerWorker.update", process), signal.SIGKILL)  # before the run got beyond the step
    output = end_of(process, EXHAUSTED)
    last = faults(run_dir)[-1]
    assert last["action"] == "stop"
    assert f"error: {last['who']} died in update after step {hang['step']}: " in output
    assert "worker process has died" in output
    assert "faults.max_restarts=1 is used up" in output
    assert CheckpointStore(run_dir / "checkpoints", keep=2).latest()[1].step <= hang["step"]
    assert list((run_dir / "ray_logs").iterdir())
    assert processes_of(run_dir) == []
