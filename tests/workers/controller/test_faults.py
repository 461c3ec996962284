"""After a fault: the one that died is named, the record says what was done, and restarts are bounded."""

import asyncio
import os

import pytest
import ray

from delta.errors import ConnectionLostError, DiedError, ExhaustedError, StallError
from workers.controller.config import FaultsConfig
from workers.controller.console import RunConsole
from workers.controller.faults import FaultDesk, Restarts
from workers.controller.metrics import JsonLines


class Helper:
    def pid(self):
        return os.getpid()

    def die(self):
        os.kill(os.getpid(), 9)


@pytest.fixture
def helpers(ray_cluster):
    actors = {name: ray.remote(Helper).options(num_cpus=0).remote() for name in ("learner rank 0", "learner rank 1")}
    ray.get([actor.pid.remote() for actor in actors.values()])
    yield actors
    for actor in actors.values():
        ray.kill(actor)


def desk(folder, **config) -> FaultDesk:
    return FaultDesk(FaultsConfig(**config), run_dir=folder, console=RunConsole(quiet=True))


def take_in(desk, error, actors, *, step=5, awaited=None):
    return asyncio.run(desk.take_in(error, step=step, actors=actors, awaited=awaited or {}))


def test_restarts_are_counted_anew_beyond_the_step_that_failed():
    restarts = Restarts(2)
    assert [restarts.allow(5), restarts.allow(5), restarts.allow(5)] == [True, True, False]
    restarts = Restarts(2)
    assert [restarts.allow(5), restarts.allow(3), restarts.allow(4)] == [True, True, False]  # no progress
    restarts = Restarts(2)
    assert [restarts.allow(5), restarts.allow(5), restarts.allow(6), restarts.allow(6)] == [True] * 4
    assert not Restarts(0).allow(0)


@pytest.mark.ray
@pytest.mark.slow
def test_the_dead_is_named_when_a_survivor_complained_first(helpers, tmp_path):
    helpers["learner rank 1"].die.remote()
    complaint = ConnectionLostError("update: closed by peer", who="learner rank 0", phase="update", cause="closed")
    fault = take_in(desk(tmp_path), complaint, helpers)
    assert (fault.who, fault.phase, fault.step) == ("learner rank 1", "update", 5)
    assert "worker process has died" in fault.cause
    assert "no process of this host for want of memory" in fault.cause
    assert "OOM killer" not in fault.cause  # Ray's list of guesses names it whatever happened
    (row,) = JsonLines(tmp_path / "faults.jsonl").rows()
    assert (row["who"], row["action"]) == ("learner rank 1", "restart 1 of 3")


@pytest.mark.ray
@pytest.mark.slow
def test_an_oom_kill_is_told_from_a_crash(helpers, tmp_path, monkeypatch):
    counts = iter([7, 8, 8])  # what the kernel's counter says: at the start, and after the death
    monkeypatch.setattr("workers.controller.faults.oom_kills", lambda: next(counts))
    helpers["learner rank 1"].die.remote()
    fault = take_in(desk(tmp_path), DiedError("died", who="learner rank 1", phase="update", cause="gone"), helpers)
    assert "the kernel killed 1 process of this host for want of memory (OOM)" in fault.cause


@pytest.mark.ray
@pytest.mark.slow
def test_a_lost_connection_between_the_living_is_not_blamed_on_anybody(helpers, tmp_path, monkeypatch):
    monkeypatch.setattr("workers.controller.faults.NOTICE_S", 0.5)
    complaint = ConnectionLostError("sync: reset", who="learner rank 0", phase="weight sync", cause="reset")
    fault = take_in(desk(tmp_path), complaint, helpers)
    assert fault.who == "unknown (learner rank 0 lost its connection, and all processes live)"


def test_a_full_disk_costs_the_report_and_not_the_restart(tmp_path, monkeypatch):
    async def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("workers.controller.faults.write_stall_report", full)
    stall = StallError("update: no answer", who="learner rank 1", phase="update", cause="no answer")
    fault = take_in(desk(tmp_path), stall, {"learner rank 1": None})
    assert (fault.cause, fault.action) == ("no answer", "restart 1 of 3")


def test_a_stall_leaves_a_report_and_the_last_one_ends_the_run(tmp_path):
    stall = StallError(
        "update: no answer", who="learner rank 1", phase="update", cause="no answer", answered=("learner rank 0",)
    )
    actors = {"learner rank 0": None, "learner rank 1": None, "rollout worker 0": None}
    counter = desk(tmp_path, max_restarts=1)
    fault = take_in(counter, stall, actors, awaited={"rollout worker 0": ["sum-17", "sum-18"]})
    assert fault.cause == "no answer; see stall-000005.txt"
    text = (tmp_path / "stall-000005.txt").read_text()
    for expected in (
        "phase           update",
        "last good step  5",
        "did not answer  learner rank 1",
        "answered        learner rank 0",
        "not asked       rollout worker 0",
        "rollout worker 0: sum-17, sum-18",
        "take_in",  # the controller's own stacks
    ):
        assert expected in text
    with pytest.raises(ExhaustedError, match=r"learner rank 1 hangs in update after step 5.*max_restarts=1 is used up"):
        take_in(counter, stall, actors)
    assert (tmp_path / "stall-000005-2.txt").exists()
    assert [row["action"] for row in JsonLines(tmp_path / "faults.jsonl").rows()] == ["restart 1 of 1", "stop"]
