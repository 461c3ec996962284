"""Waiting for actors: deadlines name the late, the dead are named, user errors come through as themselves."""

import asyncio
import gc

import pytest
import ray

from delta.errors import ConnectionLostError, DataError, DiedError, FaultError, StallError, WorkerError
from workers.calls import find_dead, gather, translate

pytestmark = [pytest.mark.ray, pytest.mark.slow]


BUSY_S = 60
"""Longer than a notice of death takes on a busy machine; nobody waits for the end of it."""


class Helper:
    def answer(self, value):
        return value

    def sleep(self, seconds):
        import time

        time.sleep(seconds)

    def fail(self, error):
        raise error

    def die(self):
        import os

        os._exit(1)


@pytest.fixture
def helpers(ray_cluster):
    actors = [ray.remote(Helper).options(num_cpus=0).remote() for _ in range(2)]
    ray.get([actor.answer.remote(0) for actor in actors])
    yield actors
    for actor in actors:
        ray.kill(actor)


def wait_for(calls, timeout_s=30.0):
    return asyncio.run(gather(calls, phase="testing", timeout_s=timeout_s))


def test_results_come_in_order(helpers):
    first, second = helpers
    assert wait_for({"a": first.answer.remote(1), "b": second.answer.remote(2)}) == [1, 2]


def test_the_late_are_named_at_the_deadline(helpers):
    first, second = helpers
    quick = first.answer.remote(1)
    ray.wait([quick])  # before the clock starts
    with pytest.raises(StallError, match=r"testing: no answer from slow within 1 s") as caught:
        wait_for({"quick": quick, "slow": second.sleep.remote(BUSY_S)}, timeout_s=1)
    assert (caught.value.who, caught.value.answered, caught.value.phase) == ("slow", ("quick",), "testing")


def test_a_death_is_noticed_while_others_are_still_busy(helpers):
    first, second = helpers
    with pytest.raises(DiedError, match="testing: victim died") as caught:
        wait_for({"busy": first.sleep.remote(BUSY_S), "victim": second.die.remote()})
    assert caught.value.who == "victim"
    assert "actor_id" not in caught.value.cause
    assert "worker process has died" in caught.value.cause


def test_those_that_fail_together_are_one_error_and_nothing_is_printed(helpers, caplog):
    async def fail_both():
        calls = {name: actor.fail.remote(DataError(name)) for name, actor in zip("ab", helpers, strict=True)}
        ray.wait(list(calls.values()), num_returns=2)  # asyncio hears of both at once
        await gather(calls, phase="testing", timeout_s=30)

    with pytest.raises(DataError, match="a"):
        asyncio.run(fail_both())
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_a_lost_connection_is_told_from_an_error_of_ours(helpers):
    first, _ = helpers
    with pytest.raises(ConnectionLostError, match="Connection closed by peer") as caught:
        wait_for({"survivor": first.fail.remote(RuntimeError("x\n[gloo/tcp] Connection closed by peer [::1]"))})
    assert caught.value.who == "survivor"
    for ours in (ValueError("a row that quotes: connection closed"), RuntimeError("shapes differ")):
        with pytest.raises(type(ours)) as other:
            wait_for({"a": first.fail.remote(ours)})
        assert not isinstance(other.value, FaultError)


def test_a_constructor_that_fails_is_no_fault(ray_cluster):
    class Broken:
        def __init__(self):
            raise ValueError("no such file")

    actor = ray.remote(Broken).options(num_cpus=0).remote()
    with pytest.raises(WorkerError, match="no such file") as caught:
        wait_for({"a": actor.__ray_ready__.remote()})
    assert not isinstance(caught.value, FaultError)


def test_the_dead_are_found_among_the_busy(helpers):
    first, second = helpers
    busy = first.sleep.remote(BUSY_S)
    assert asyncio.run(find_dead({"busy": first, "idle": second}, within_s=1)) == {}
    second.die.remote()
    dead = asyncio.run(find_dead({"busy": first, "victim": second}, within_s=30))
    assert list(dead) == ["victim"]
    assert not ray.wait([busy], timeout=0)[0]  # nobody waited for it


def test_who_was_ended_for_want_of_memory_died_too():
    """Ray's monitor is faster than the kernel, and has an exception of its own."""
    killed = ray.exceptions.OutOfMemoryError("Task was killed due to the node running low on memory.\nTop 10: ...")
    error = translate(killed, name="learner rank 1", phase="update")
    assert isinstance(error, DiedError)
    assert (error.who, error.phase) == ("learner rank 1", "update")
    assert error.cause == "Task was killed due to the node running low on memory"


def test_user_errors_come_through_as_themselves_and_others_with_their_traceback(helpers):
    first, _ = helpers
    with pytest.raises(DataError, match="line 3"):
        wait_for({"a": first.fail.remote(DataError("line 3"))})
    with pytest.raises(ZeroDivisionError):
        wait_for({"a": first.fail.remote(ZeroDivisionError("x"))})
