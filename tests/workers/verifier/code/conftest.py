"""Judges for the tests: one per sandbox mode and module, with short limits."""

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from delta.types import FunctionTests, StdioCase, StdioTests
from workers.verifier.code import CodeConfig, CodeJudge, SandboxMode, probe
from workers.verifier.code.sandbox import descendants

LIMITS = CodeConfig(timeout_s=1.5, test_timeout_s=1.2, cpu_s=10, memory_mib=256, max_processes=12, max_file_mib=16)

GOOD = "def total(values):\n    result = 0\n    for value in values:\n        result += value\n    return result\n"
TESTS = FunctionTests(
    "def check(candidate):\n"
    "    assert candidate([1, 2, 3]) == 6\n"
    "    assert candidate([]) == 0\n"
    "    assert candidate([10, -4]) == 6\n"
    "    assert candidate([123456, 654321]) == 777777\n"
    "check(total)\n",
    "total",
)
GOOD_SCRIPT = "import sys\nprint(sum(map(int, sys.stdin.read().split())))\n"
CASES = StdioTests((StdioCase("1 2 3\n", "6\n"), StdioCase("10\n-4\n", "6\n"), StdioCase("123456 654321", "777777\n")))

needs_bubblewrap = pytest.mark.skipif(not probe()[0], reason=f"bubblewrap does not work here: {probe()[1]}")


def config(mode: SandboxMode, **changes: object) -> CodeConfig:
    values = {name: getattr(LIMITS, name) for name in CodeConfig.__slots__}
    return CodeConfig(**(values | {"sandbox": mode} | changes))


def left_behind() -> tuple[int, int, int, int]:
    """Processes below us, open files, mounts and temporary folders, once nothing is starting any more."""
    counts, last = count_ours(), None
    while counts != last:
        time.sleep(0.1)
        counts, last = count_ours(), counts
    return counts


def count_ours() -> tuple[int, int, int, int]:
    return (
        len(list(descendants(os.getpid()))),
        len(os.listdir("/proc/self/fd")),
        len(Path("/proc/self/mountinfo").read_text().splitlines()),
        len(list(Path(tempfile.gettempdir()).glob("delta-program-*"))),
    )


@pytest.fixture(scope="module", params=[pytest.param("bubblewrap", marks=needs_bubblewrap), "process"])
def judge(request: pytest.FixtureRequest) -> Iterator[CodeJudge]:
    with CodeJudge(config(SandboxMode[request.param])) as judge:
        judge.ready()
        yield judge
