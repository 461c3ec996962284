"""A Ray that is there already: waited for, used, and left running."""

import os
import subprocess
import sys
import time

import pytest
import ray

from delta.errors import MissingNodesError
from tests.conftest import ROOT
from workers.cluster.attached import await_nodes

pytestmark = pytest.mark.ray

DRIVER = """
import os, sys, ray
from workers.cluster import ClusterConfig, cluster

class RolloutWorker:
    def pid(self):
        return os.getpid()

with cluster(ClusterConfig(), nodes=1, timeout_s=float(sys.argv[1]), log_folder=None):
    actor = ray.remote(RolloutWorker).options(num_cpus=0).remote()
    print("pid", ray.get(actor.pid.remote()))
"""


def test_a_driver_leaves_the_ray_it_attached_to_and_nothing_in_it(ray_cluster):
    address = ray.get_runtime_context().gcs_address
    environment = {**os.environ, "RAY_ADDRESS": address, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, "60"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    pid = int(done.stdout.split("pid ")[1].split()[0])
    deadline = time.monotonic() + 30
    while os.path.exists(f"/proc/{pid}"):
        assert time.monotonic() < deadline, "the actor outlives its driver"
        time.sleep(0.05)
    assert [node["Alive"] for node in ray.nodes()] == [True]


def test_where_no_ray_is_the_message_says_what_was_expected():
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, "1"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert (
        "ConfigError: RAY_ADDRESS=127.0.0.1:9: no Ray to work with ([Errno 111] Connection refused)" in done.stderr
    ), done.stderr[-2000:]


def test_whoever_is_there_is_named_when_others_are_missing(ray_cluster):
    assert len(await_nodes(1, num_gpus=0, timeout_s=30)) == 1
    with pytest.raises(MissingNodesError, match=r"1 of 2 nodes joined .* within 0.1 s: .*\(127\.0\.0\.1\)\."):
        await_nodes(2, num_gpus=0, timeout_s=0.1)
    with pytest.raises(MissingNodesError, match=r"0 of 1 nodes .*: none\. Without the 8 GPUs .*\(127\.0\.0\.1\)"):
        await_nodes(1, num_gpus=8, timeout_s=0.1)
