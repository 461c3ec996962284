"""The entrypoint at Ray's own job server, asked as the operator asks it in HTTPMode: over HTTP with the job's token."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from launch.submit.kuberay.manifest import build
from tests.conftest import ROOT
from tests.launch.submit.kuberay.plans import make_config, make_plan
from tests.launch.submit.kuberay.test_attempt import driver, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


def free_ports(count: int) -> list[int]:
    taken = [socket.socket() for _ in range(count)]
    for one in taken:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in taken]
    for one in taken:
        one.close()
    return ports


@dataclass
class JobServer:
    """Ray's dashboard, as the operator sees it."""

    url: str
    token: str

    def ask(self, method: str, path: str, body: Any = None, *, token: str = "") -> Any:
        request = urllib.request.Request(
            f"{self.url}{path}",
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Authorization": f"Bearer {token or self.token}", "Content-Type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as answer:
            return json.loads(answer.read() or b"null")

    def submit(self, entrypoint: str) -> str:
        return self.ask("POST", "/api/jobs/", {"entrypoint": entrypoint})["submission_id"]

    def end_of(self, job: str, *, timeout_s: float = 90) -> Any:
        deadline = time.monotonic() + timeout_s
        while (found := self.ask("GET", f"/api/jobs/{job}"))["status"] not in ENDED:
            assert time.monotonic() < deadline, found
            time.sleep(0.5)
        return found


@pytest.fixture(scope="module")
def job_server(tmp_path_factory) -> Iterator[JobServer]:
    """`ray start --head` with what the manifest sets on the head."""
    folder = tmp_path_factory.mktemp("ray")
    token = secrets.token_hex(32)
    port, dashboard, agent, metrics = free_ports(4)
    plan = replace(make_plan(), restarts=replace(make_plan().restarts, grace_s=30.0))
    head = build(plan, make_config())["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    variables = {entry["name"]: entry["value"] for entry in head["env"] if "value" in entry}
    environment = {
        **os.environ,
        **{name: value for name, value in variables.items() if name.startswith("RAY_")},
        "RAY_AUTH_MODE": "token",  # what the operator makes of authOptions
        "RAY_AUTH_TOKEN": token,
        "RAY_CLUSTER_NAME": "first-run-abcde",
        "RAY_TMPDIR": "/tmp",
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    start = (
        f"ray start --head --block --node-ip-address=127.0.0.1 --port={port} --dashboard-host=127.0.0.1 "
        f"--dashboard-port={dashboard} --dashboard-agent-listen-port={agent} --metrics-export-port={metrics} "
        f"--num-cpus=2 --num-gpus=0 --object-store-memory={100 * 2**20} --disable-usage-stats"
    )
    with (folder / "ray.log").open("wb") as log:
        ray = subprocess.Popen(start.split(), env=environment, stdout=log, stderr=log, start_new_session=True)
    server = JobServer(f"http://127.0.0.1:{dashboard}", token)
    deadline = time.monotonic() + 120
    while True:
        try:
            server.ask("GET", "/api/jobs/")
            break
        except (urllib.error.URLError, ConnectionError):
            assert ray.poll() is None, (folder / "ray.log").read_text()
            assert time.monotonic() < deadline, (folder / "ray.log").read_text()
            time.sleep(0.5)
    yield server
    ray.terminate()
    ray.wait(60)


def entrypoint(folder: Path, *command: str) -> str:
    plan = make_plan(run_dir=folder, command=command)
    return build(plan, make_config())["spec"]["entrypoint"]


def test_a_preempted_run_has_failed_and_a_wrong_setting_stops_the_job(job_server, tmp_path):
    """The operator starts what FAILED again, up to backoffLimit times, and leaves alone what is STOPPED."""
    preempted = job_server.submit(entrypoint(tmp_path / "a", "sh", "-c", 'echo "$RAY_ADDRESS"; exit 75'))
    refused = job_server.submit(entrypoint(tmp_path / "b", "sh", "-c", "echo 'no such model'; exit 2"))
    assert job_server.end_of(preempted)["status"] == "FAILED"
    assert job_server.end_of(preempted)["driver_exit_code"] == 75
    assert job_server.end_of(refused)["status"] == "STOPPED"
    assert "no such model" in (tmp_path / "b" / "job" / "driver.log").read_text()
    assert ":" in (tmp_path / "a" / "job" / "driver.log").read_text(), "the driver is told where its Ray is"


def test_a_job_that_is_deleted_has_time_for_its_checkpoint(job_server, tmp_path):
    """Ray alone would kill it after 3 seconds."""
    job = job_server.submit(entrypoint(tmp_path, *driver(tmp_path, 6.0)))
    wait_for(tmp_path / "started")
    job_server.ask("POST", f"/api/jobs/{job}/stop")
    assert job_server.end_of(job)["status"] == "STOPPED"
    assert (tmp_path / "checkpoint").read_text() == "1"


def test_nobody_gets_in_without_the_token(job_server):
    with pytest.raises(urllib.error.HTTPError) as caught:
        job_server.ask("GET", "/api/jobs/", token="0" * 64)
    assert caught.value.code in (401, 403)
