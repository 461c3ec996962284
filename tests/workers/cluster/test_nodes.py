"""Functions on every node: who is there answers, who is not costs the others nothing."""

import asyncio
import os
import signal

import psutil
import pytest
import ray

from delta.errors import DiedError
from workers.calls import gather
from workers.cluster.nodes import Node, everywhere, listed, pinned
from workers.processes import actor_processes, end_actors_of_job
from workers.stall_report import report_from_here

pytestmark = pytest.mark.ray

GONE = Node(node_id="ab" * 28, address="10.0.0.9", name="gone", is_head=False, cpus=2.0, gpus=0.0)


def pid_there():
    return os.getpid()


def never():
    signal.pause()


def ask(nodes, function, *arguments, timeout_s=60):
    return asyncio.run(everywhere(nodes, function, *arguments, timeout_s=timeout_s))


def test_the_living_answer_and_a_node_that_is_gone_is_said_to_be(ray_cluster):
    (here,) = listed()
    first, second = ask([here, GONE], pid_there)
    assert first.node is here
    assert psutil.Process(first.value).pid != os.getpid()
    assert (second.value, bool(second.trouble)) == (None, True)


def test_whoever_does_not_answer_in_time_is_not_waited_for(ray_cluster):
    (here,) = listed()
    (answer,) = ask([here], never, timeout_s=2)
    assert answer.trouble == "no answer within 2 s"


def test_an_actor_for_a_node_that_is_gone_is_a_fault(ray_cluster):
    actor = ray.remote(Worker).options(num_cpus=0, scheduling_strategy=pinned(GONE)).remote()
    with pytest.raises(DiedError, match="learner rank 1 died"):
        asyncio.run(gather({"learner rank 1": actor.pid.remote()}, phase="start-up", timeout_s=60))


class Worker:
    def pid(self):
        return os.getpid()


def test_actors_of_the_driver_are_found_and_ended_by_a_task_on_their_node(ray_cluster):
    """As on other nodes: nobody there is a child of ours. One is stopped, and has to be killed."""
    (here,) = listed()
    engine, host = (
        ray.remote(type(name, (Worker,), {})).options(num_cpus=0).remote() for name in ("RolloutWorker", "VerifierHost")
    )
    pids = ray.get([engine.pid.remote(), host.pid.remote()])
    assert {process.pid for process in actor_processes()} == set(pids)
    (report,) = ask([here], report_from_here)
    assert all(str(pid) in "\n".join(report.value) for pid in pids)
    os.kill(pids[0], signal.SIGSTOP)
    ask([here], end_actors_of_job, "RolloutWorker")
    assert [process.pid for process in actor_processes()] == [pids[1]]
    ray.kill(host)
