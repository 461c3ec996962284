"""What runs on the nodes: ports and folders of their own, one signal for the run, and nobody left behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from delta.errors import SubmissionError
from launch.submit.slurm import driver as driver_module
from launch.submit.slurm import node as node_module
from launch.submit.slurm.driver import Driver
from launch.submit.slurm.marks import Marks, failed, started
from launch.submit.slurm.node import Node, own_address, parsed
from launch.submit.slurm.ports import Block, own_block
from launch.submit.slurm.ray_node import NodeResources
from tests.conftest import ROOT

FIRST, LAST = 18_000, 18_599
LISTENER = """
import signal, sys, time
got = []
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda number, _: (got.append(number), print("got", flush=True)))
print("ready", flush=True)
while not got or time.monotonic() < end:
    time.sleep(0.05)
    if got and "end" not in globals():
        end = time.monotonic() + 1
sys.exit(75 if got == [signal.SIGUSR1] else 99)
"""


def block(stack: ExitStack, folder: Path, *, preferred: int = 0, cpus: int = 1) -> Block:
    return stack.enter_context(
        own_block(temp_dir=folder, first_port=FIRST, last_port=LAST, cpus=cpus, preferred=preferred)
    )


def test_jobs_on_one_node_have_ports_and_folders_of_their_own(tmp_path):
    with ExitStack() as stack:
        blocks = [block(stack, tmp_path) for _ in range(5)]
        used = [set(range(each.first, each.first + each.size)) for each in blocks]
        assert sum(map(len, used)) == len(set().union(*used))
        assert all(FIRST <= port <= LAST for each in used for port in each)
        assert len({each.folder for each in blocks}) == 5
        with pytest.raises(SubmissionError, match=r"no 112 free ports in a row between 18000 and 18599"):
            block(stack, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_ports_that_somebody_listens_on_are_left_alone(tmp_path):
    with ExitStack() as stack, socket.create_server(("127.0.0.1", FIRST + 50)):
        assert block(stack, tmp_path).first > FIRST + 50


def test_what_a_killed_job_left_is_removed(tmp_path):
    left = tmp_path / f"delta-{os.getuid()}-{FIRST + 300}" / "session"
    left.mkdir(parents=True)
    (left.parent / "lock").touch()
    with ExitStack() as stack:
        owned = block(stack, tmp_path)
        assert not left.exists()
        (owned.folder / "alive").touch()
        block(stack, tmp_path)
        assert (owned.folder / "alive").exists()


def test_what_others_put_under_our_name_is_left_alone(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis").write_text("years")
    folders = tmp_path / "tmp"
    folders.mkdir()
    for name, target in ((FIRST, mine), (FIRST + 112, tmp_path / "nowhere")):
        (folders / f"delta-{os.getuid()}-{name}").symlink_to(target)
    (folders / f"delta-{os.getuid()}-{FIRST + 224}").touch()
    with ExitStack() as stack:
        assert block(stack, folders).first == FIRST + 336
    assert [path.name for path in mine.iterdir()] == ["thesis"]
    assert len(list(folders.iterdir())) == 3


def test_all_ports_of_ray_are_pinned(tmp_path):
    with ExitStack() as stack:
        mine = block(stack, tmp_path)
    for head in (True, False):
        options = dict(option.split("=") for option in mine.options(head=head))
        assert len(set(options.values())) == len(options)
        assert all(mine.first <= int(port) < mine.first + mine.size for port in options.values())
        assert ("--port" in options) == head


def started_driver(*command: str, grace_s: float = 30) -> Driver:
    return Driver(command, environment={}, grace_s=grace_s)


def code_of(driver: Driver, *, within_s: float = 30) -> int:
    end = time.monotonic() + within_s
    while driver.code is None and time.monotonic() < end:
        time.sleep(0.05)
    assert driver.code is not None
    return driver.code


def await_word(word: str, capfd: pytest.CaptureFixture[str]) -> None:
    while word not in capfd.readouterr().out:
        time.sleep(0.05)


def test_the_run_is_told_once_however_often_slurm_says_it(capfd):
    driver = started_driver(sys.executable, "-c", LISTENER)
    await_word("ready", capfd)
    os.kill(driver._process.pid, signal.SIGTERM)
    driver.tell(already=False)
    driver.tell(already=False)
    assert code_of(driver) == 75


def test_a_run_that_was_told_by_somebody_else_is_not_told_again(capfd):
    driver = started_driver(sys.executable, "-c", LISTENER)
    await_word("ready", capfd)
    os.kill(driver._process.pid, signal.SIGUSR1)
    await_word("got", capfd)  # two that come together may count as one
    driver.tell(already=True)
    assert code_of(driver) == 75


def test_a_run_that_does_not_end_is_ended(monkeypatch):
    monkeypatch.setattr(driver_module, "END_S", 0.1)
    driver = started_driver("sleep", "600", grace_s=0.1)
    driver._told_at = time.monotonic() - 1
    driver.tell(already=False)
    assert code_of(driver) == -signal.SIGKILL


def test_nobody_who_was_started_here_is_left():
    program = (
        "import subprocess, sys\n"
        "from launch.submit.slurm.ray_node import adopt_orphans, end_children\n"
        "adopt_orphans()\n"
        "subprocess.run(['bash', '-c', 'setsid sleep 601 & setsid bash -c \"sleep 602 & sleep 603\" & sleep 0.3'])\n"
        "end_children()\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)
    left = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]
    assert [line for line in left if line and line[0] == "sleep" and line[1] in ("601", "602", "603")] == []


def test_the_address_is_the_one_that_slurm_has():
    assert own_address("n1", {"n1": "127.0.0.1", "n2": "127.0.0.1"}) == "127.0.0.1"
    assert own_address("n1", {"n1": "10.1.2.3", "n2": "10.1.2.4"}) == "10.1.2.3"
    assert own_address("n1", {"n1": "10.1.2.3"}, network="lo") == "127.0.0.1"
    with pytest.raises(SubmissionError, match=r"cluster.network=ib7: n1 has no such interface"):
        own_address("n1", {"n1": "10.1.2.3"}, network="ib7")


def test_less_than_what_was_asked_for_is_named(monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "4")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    NodeResources(cpus=4, gpus=2, memory_mib=0, object_store_mib=1).check()
    with pytest.raises(SubmissionError, match=r"gave 4 CPUs and 2 GPUs .*expected 5 and 2"):
        NodeResources(cpus=5, gpus=2, memory_mib=0, object_store_mib=1).check()
    with pytest.raises(SubmissionError, match="expected 4 and 3"):
        NodeResources(cpus=4, gpus=3, memory_mib=0, object_store_mib=1).check()


def test_ray_is_told_the_memory_of_the_job(monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "4")
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "1000")
    resources = NodeResources(cpus=2, gpus=0, memory_mib=0, object_store_mib=500)
    assert f"--memory={3500 * 2**20}" in resources.options()
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "2000")
    assert f"--memory={1500 * 2**20}" in resources.options()


@pytest.fixture
def head(tmp_path, monkeypatch) -> Node:
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    arguments = (
        *("--marks", str(tmp_path), "--nodes", "n1=10.0.0.1 n2=10.0.0.2 n3=10.0.0.3", "--cpus=1", "--gpus=0"),
        *("--memory-mib=0", "--object-store-mib=80", f"--first-port={FIRST}", f"--last-port={LAST}", "--temp-dir=/tmp"),
        *("--kill-wait-s=30", "--ready-timeout-s=0.2", "--grace-s=9", "head", "--", "delta-train", "steps=3"),
    )
    return Node(parsed(arguments))


@pytest.mark.parametrize(("restarts", "code"), [("0", "71"), ("1", "75")])
def test_a_head_that_is_unable_ends_the_job_for_good_only_at_its_first_start(head: Node, restarts: str, code: str):
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in vars(head.arguments).items()]
    options = [argument for argument in arguments if not argument.startswith(("--role", "--driver", "--cpus"))]
    subprocess.run(
        [sys.executable, "-m", "launch.submit.slurm.node", *options, "--cpus=2", "head", "--", "delta-train"],
        env={**os.environ, "SLURM_CPUS_ON_NODE": "1", "SLURM_RESTART_COUNT": restarts},
        cwd=ROOT,
        timeout=60,
    )
    assert head.marks.read("ended") == code


class Ray:
    address, code = "10.0.0.1:18000", None


def test_nodes_that_are_missing_at_the_deadline_are_named_with_how_far_they_came(head: Node, monkeypatch):
    monkeypatch.setattr(node_module, "alive_nodes", lambda address: ["n1"])
    head.marks.make(started("n3"))
    (head.marks.folder / "ray-n3.log").write_text("Local node IP\nno route to host\n")
    with pytest.raises(SubmissionError) as error:
        head.await_nodes(Ray(), ["n1", "n2", "n3"], deadline=time.monotonic() + 0.2)
    assert "1 of 3 nodes joined Ray within 0.2 s" in str(error.value)
    assert "n2: nothing started there" in str(error.value)
    assert "n3: started, but Ray did not join (Local node IP no route to host)" in str(error.value)


def test_a_node_that_cannot_take_part_ends_the_wait_at_once(head: Node, monkeypatch):
    monkeypatch.setattr(node_module, "alive_nodes", lambda address: ["n1"])
    head.marks.make(failed("n2"), "Slurm gave 1 CPUs")
    with pytest.raises(SubmissionError, match="n2: Slurm gave 1 CPUs"):
        head.await_nodes(Ray(), ["n1", "n2", "n3"], deadline=time.monotonic() + 3600)


def test_the_wait_for_nodes_ends_when_the_job_is_to_end(head: Node, monkeypatch):
    monkeypatch.setattr(node_module, "alive_nodes", lambda address: ["n1"])
    head.marks.make("stop")
    with pytest.raises(node_module.Preempted):
        head.await_nodes(Ray(), ["n1", "n2"], deadline=time.monotonic() + 3600)


def test_marks_are_whole_or_not_there(tmp_path):
    marks = Marks(tmp_path)
    assert not marks.has("head")
    assert marks.read("head") == ""
    marks.make("head", "10.0.0.1:20000")
    assert marks.has("head")
    assert marks.read("head") == "10.0.0.1:20000"
    assert [path.name for path in tmp_path.iterdir()] == ["head"]
