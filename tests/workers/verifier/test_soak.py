"""Twenty thousand answers of all kinds: one verdict each, the right one, with steady memory and nothing left behind."""

import os
import random
from pathlib import Path

import pytest

from delta.rewards import RewardConfig
from delta.types import FunctionTests, Outcome, Sample, StdioCase, StdioTests
from tests.workers.verifier import judges
from tests.workers.verifier.leftovers import MARK, alive, below, marked, none_left, open_files, program_folders
from workers.verifier.code import CodeConfig
from workers.verifier.config import PoolConfig, ScoringConfig
from workers.verifier.supervisor import Supervisor

pytestmark = pytest.mark.slow

ANSWERS = 20_000
GROWTH_MIB = 150
"""Of one process from the first quarter to the end; a leak of a page per answer would be 60."""
CORRECT, WRONG, UNPARSABLE, TIMEOUT, ERROR = Outcome
DOUBLE = FunctionTests("assert double(4) == 8", "double")
CASES = StdioTests((StdioCase("3\n", "6\n"),))

MATH = [
    (lambda n: Sample(f"so \\boxed{{\\frac{{{2 * n}}}{{4}}}}", f"{n}/2"), CORRECT),
    (lambda n: Sample(f"#### {n}", str(n)), CORRECT),
    (lambda n: Sample(f"\\boxed{{x^2+{n}}}", f"{n} + x^2"), CORRECT),
    (lambda n: Sample(f"#### {n}", str(n + 1)), WRONG),
    (lambda n: Sample(f"\\boxed{{{n} x}}", f"{n} y"), WRONG),
    (lambda n: Sample(f"\\boxed{{{n}^{{9^{{9^{{9}}}}}}}}", "7"), WRONG),
    (lambda n: Sample("\\boxed{" + "(" * 2000 + str(n), "7"), UNPARSABLE),
    (lambda n: Sample(f"I cannot say, attempt {n}: \ud800\0", "seven"), None),
    (lambda n: judges.of("echo", f"0.{n + 1}"), WRONG),
]
RARE = [
    (lambda n: Sample(f"def double(x):\n    return 2 * x  # {n}", DOUBLE), CORRECT),
    (lambda n: Sample(f"def double(x):\n    return 3 * x  # {n}", DOUBLE), WRONG),
    (lambda n: Sample(f"print(2 * int(input()))  # {n}", CASES), CORRECT),
    (lambda n: judges.of("raises", str(n)), ERROR),
]
HARMFUL = [
    *[(judges.of(judge, "0"), TIMEOUT) for judge in ("sleeps", "spins_in_c", "forks_and_hangs") * 3],
    *[(judges.of(judge), ERROR) for judge in ("dies", "forks_and_dies", "crashes") * 5],
    (judges.of("forks"), CORRECT),
]


def answers() -> list[tuple[Sample, Outcome | None]]:
    rare = [make(number) for number in range(100) for make, _ in RARE], [kind for _, kind in RARE] * 100
    made = [*zip(*rare, strict=True), *HARMFUL]
    for number in range(ANSWERS - len(made)):
        make, outcome = MATH[number % len(MATH)]
        made.append((make(number), outcome))
    random.Random(0).shuffle(made)
    return made


def resident_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def largest(supervisor: Supervisor) -> dict[str, float]:
    supervisor.score([Sample("#### 1", "1")])  # the last answer may have been the end of a worker
    return {
        "supervisor": resident_mib(os.getpid()),
        "server": resident_mib(supervisor._server._process.pid),
        "worker": max(resident_mib(pid) for pid in supervisor.pids),
    }


def test_a_flood_of_all_kinds_gets_its_verdicts_and_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv(MARK, str(tmp_path))
    made = answers()
    files, folders = open_files(), program_folders()
    pool = PoolConfig(timeout_s=1.0, memory_mib=2048, code=CodeConfig(timeout_s=10.0))
    supervisor = Supervisor(ScoringConfig(pool, RewardConfig()), workers=2)
    settled = [0] * len(made)
    verdicts, memory = [], []
    try:
        quarter = len(made) // 4
        for first in range(0, len(made), quarter):
            futures = [supervisor.submit(sample) for sample, _ in made[first : first + quarter]]
            for place, future in enumerate(futures, first):
                future.add_done_callback(lambda _, place=place: settled.__setitem__(place, settled[place] + 1))
            verdicts += [future.result() for future in futures]
            memory.append(largest(supervisor))
        processes = below(supervisor._server._process.pid)
    finally:
        supervisor.close()
    assert settled == [1] * ANSWERS
    for (sample, expected), verdict in zip(made, verdicts, strict=True):
        assert verdict.outcome is (expected or verdict.outcome), (sample, verdict)
    assert {name: memory[-1][name] - memory[0][name] < GROWTH_MIB for name in memory[0]} == dict.fromkeys(
        memory[0], True
    ), memory
    assert none_left(lambda: marked(str(tmp_path)))
    assert none_left(lambda: alive(processes))
    assert open_files() == files
    assert program_folders() <= folders
