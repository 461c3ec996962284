"""Waiting for actors: deadlines name the late, the dead are named, user errors come through as themselves."""

import asyncio

import pytest
import ray

from delta.errors import DataError, WorkerError
from workers.calls import gather

pytestmark = [pytest.mark.ray, pytest.mark.slow]


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
    with pytest.raises(WorkerError, match=r"testing: no answer from slow within 1 s"):
        wait_for({"quick": first.answer.remote(1), "slow": second.sleep.remote(8)}, timeout_s=1)


def test_a_death_is_noticed_while_others_are_still_busy(helpers):
    first, second = helpers
    with pytest.raises(WorkerError, match="testing: victim died"):
        wait_for({"busy": first.sleep.remote(8), "victim": second.die.remote()})


def test_user_errors_come_through_as_themselves_and_others_with_their_traceback(helpers):
    first, _ = helpers
    with pytest.raises(DataError, match="line 3"):
        wait_for({"a": first.fail.remote(DataError("line 3"))})
    with pytest.raises(ZeroDivisionError):
        wait_for({"a": first.fail.remote(ZeroDivisionError("x"))})
