"""What tests of the whole command share: runs that nobody forgets to end."""

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, Train, command
from tests.integration.runs import kill_what_is_left
from tests.launch.conftest import in_forks

Start = Callable[..., subprocess.Popen]


@pytest.fixture
def start() -> Iterator[Start]:
    """The training command in the background, its descendants marked by an environment variable.

    What is left of it after the test is killed: a failed test must not leave a run beside the tests that follow.
    """
    begun: list[tuple[Path, subprocess.Popen]] = []

    def begin(run_dir: Path, *overrides: str) -> subprocess.Popen:
        process = subprocess.Popen(
            command([*overrides, f"run_dir={run_dir}"]),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "DELTA_TEST_RUN": str(run_dir)},
            start_new_session=True,
        )
        begun.append((run_dir, process))
        return process

    yield begin
    for run_dir, process in begun:
        kill_what_is_left(run_dir)
        process.wait()
        process.stdout.close()


@pytest.fixture
def train_in_fork(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """`train` for commands that end before they start a run: without the seconds that imports take."""
    return in_forks(tmp_path_factory.mktemp("said"))


@pytest.fixture
def shared_memory() -> Iterator[None]:
    """Nothing that a test leaves there is forgotten."""
    before = set(os.listdir("/dev/shm"))
    yield
    deadline = time.monotonic() + 30
    while (left := _unused_shared_memory() - before) and time.monotonic() < deadline:
        time.sleep(1)  # somebody else's, between being made and being used
    assert not left


def _unused_shared_memory() -> set[str]:
    """What is there in no living process's use; others may work on this machine."""
    used = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            used.update(re.findall(r"/dev/shm/(\S+)", (process / "maps").read_text()))
    return set(os.listdir("/dev/shm")) - used
