"""Stacks of other processes: of one that works, of one that is stopped, and what is said where there are none."""

import asyncio
import os
import signal
import subprocess
import sys
import time

import pytest

from workers.stall_report import oom_kills, stacks_of

PROGRAM = "import time\ndef inner():\n    print('here', flush=True)\n    time.sleep(60)\ninner()"


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "here\n"
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("stopped", [False, True])
def test_stacks_are_read_from_outside_and_leave_the_process_as_it_is(sleeper, stopped):
    if stopped:
        os.kill(sleeper.pid, signal.SIGSTOP)
        while _state(sleeper.pid) != "T":
            time.sleep(0.01)
    stacks = asyncio.run(stacks_of(sleeper.pid))
    if "could not read it" in stacks:
        assert "SYS_PTRACE" in stacks
        pytest.skip("reading other processes is not permitted here")
    assert "inner" in stacks
    assert (_state(sleeper.pid) == "T") is stopped


def test_a_process_that_is_gone_is_no_error(sleeper):
    sleeper.kill()
    sleeper.wait()
    assert "py-spy could not read it" in asyncio.run(stacks_of(sleeper.pid))


def test_the_kernels_count_is_read():
    with open("/proc/vmstat", encoding="ascii") as file:
        assert f"oom_kill {oom_kills()}\n" in file.read()


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return file.read().rsplit(")", 1)[1].split()[0]
