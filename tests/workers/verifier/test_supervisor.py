"""Exactly one verdict for every answer, and nothing left behind, whatever the answers do to their processes."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import wait

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from delta.errors import ConfigError, WorkerError
from delta.rewards import PartConfig, RewardConfig
from delta.types import FunctionTests, Outcome, Sample, StdioCase, StdioTests, Verdict
from tests.conftest import ROOT
from tests.workers.verifier import judges
from tests.workers.verifier.leftovers import (
    MARK,
    alive,
    below,
    marked,
    none_left,
    open_files,
    program_folders,
    wait_until,
)
from workers.verifier.code import CodeConfig
from workers.verifier.config import PoolConfig, ScoringConfig
from workers.verifier.fork_server import ForkServer
from workers.verifier.supervisor import CLOSED, Supervisor

FOREVER = "0"
CORRECT, WRONG, UNPARSABLE, TIMEOUT, ERROR = Outcome
TESTS = FunctionTests("assert twice(2) == 4\nassert twice(-1) == -2", "twice")
CASES = StdioTests((StdioCase("2\n", "4\n"), StdioCase("5\n", "10\n")))
ENDLESS = Sample("def twice(x):\n    while True: pass", TESTS)


def scoring(reward: RewardConfig | None = None, **pool: object) -> ScoringConfig:
    return ScoringConfig(PoolConfig(**({"timeout_s": 60.0} | pool)), reward or RewardConfig())


@pytest.fixture(scope="module")
def supervisor() -> Iterator[Supervisor]:
    """Two workers and a short deadline."""
    supervisor = Supervisor(scoring(timeout_s=2.0), workers=2)
    yield supervisor
    supervisor.close()


@pytest.fixture
def supervise() -> Iterator:
    """Supervisors of a test's own; closed at its end."""
    made: list[Supervisor] = []

    def make(*, workers: int = 1, reward: RewardConfig | None = None, **pool: object) -> Supervisor:
        made.append(Supervisor(scoring(reward, **pool), workers=workers))
        return made[-1]

    yield make
    for supervisor in made:
        supervisor.close()


def math(index: int) -> Sample:
    return Sample(f"#### {index % 7}", str(index % 5))


def outcomes(verdicts: list[Verdict]) -> list[Outcome]:
    return [verdict.outcome for verdict in verdicts]


# Verdicts


def test_verdicts_come_in_the_order_of_the_answers(supervisor):
    samples = [judges.of("echo", str(index / 100)) if index % 2 else math(index) for index in range(100)]
    expected = [index / 100 if index % 2 else float(index % 7 == index % 5) for index in range(100)]
    assert [verdict.reward for verdict in supervisor.score(samples)] == expected


def test_every_kind_of_answer_gets_its_verdict(supervisor):
    samples = {
        "math": (Sample("so \\boxed{\\frac{2}{4}}", "0.5"), CORRECT),
        "no math": (Sample("", "0.5"), UNPARSABLE),
        "function": (Sample("```python\ndef twice(x):\n    return 2 * x\n```", TESTS), CORRECT),
        "wrong function": (Sample("def twice(x):\n    return 2 + x", TESTS), WRONG),
        "program": (Sample("print(2 * int(input()))", CASES), CORRECT),
        "plugin": (judges.of("echo", "0.25"), WRONG),
    }
    verdicts = supervisor.score([sample for sample, _ in samples.values()])
    assert dict(zip(samples, outcomes(verdicts), strict=True)) == {name: kind for name, (_, kind) in samples.items()}
    assert verdicts[-1].reward == 0.25


@pytest.mark.parametrize("judge", ["sleeps", "spins_in_c", "forks_and_hangs"])
def test_only_the_answer_that_hangs_times_out(supervisor, judge):
    verdicts = supervisor.score([math(0), judges.of(judge, FOREVER), math(0), math(1), math(0)])
    assert outcomes(verdicts) == [CORRECT, TIMEOUT, CORRECT, CORRECT, CORRECT]
    assert verdicts[1].reward == 0.0
    assert verdicts[1].detail == "no verdict within 2 s"
    assert verdicts[1].seconds >= 2.0


@pytest.mark.parametrize("judge", ["dies", "crashes", "exits", "forks_and_dies", "unpicklable"])
def test_an_answer_that_kills_its_worker_twice_is_an_error(supervisor, judge):
    verdicts = supervisor.score([math(0), judges.of(judge), math(0)])
    assert outcomes(verdicts) == [CORRECT, ERROR, CORRECT]
    assert verdicts[1].detail == "its worker died, 2 times"


def test_an_answer_whose_worker_died_once_gets_its_verdict(supervisor, tmp_path):
    assert supervisor.submit(judges.of("dies_once", str(tmp_path / "died"))).result().outcome is CORRECT


def test_what_a_judge_raises_is_an_error_with_its_reason(supervisor):
    (verdict,) = supervisor.score([judges.of("raises")])
    assert (verdict.outcome, verdict.reward, verdict.detail) == (ERROR, 0.0, "LookupError: no such lemma")


@pytest.mark.parametrize("response", ["nan", "inf"])
def test_a_reward_that_is_no_number_is_an_error(supervisor, response):
    (verdict,) = supervisor.score([judges.of("echo", response)])
    assert (verdict.outcome, verdict.reward) == (ERROR, 0.0)
    assert "finite" in verdict.detail


def test_a_judge_that_is_not_there_is_an_error_of_its_answers_alone(supervisor):
    verdicts = supervisor.score([judges.of("none"), math(0)])
    assert outcomes(verdicts) == [ERROR, CORRECT]
    assert "tests.workers.verifier.judges has no function 'none'" in verdicts[0].detail


def test_times_are_told_apart(supervise):
    supervisor = supervise(patience=1000)
    supervisor.ready()
    first, second = supervisor.score([judges.of("sleeps", "0.3"), judges.of("sleeps", "0.3")])
    assert first.seconds >= 0.3
    assert second.seconds >= 0.3
    assert second.queue_seconds >= 0.3
    assert min(first.queue_seconds, first.reward, second.reward) >= 0.0


def test_a_reward_part_may_hang_or_raise_without_harm(supervise):
    parts = {"sleepy": PartConfig(function=f"{judges.__name__}.sleepy_part")}
    verdicts = supervise(reward=RewardConfig(parts=parts), timeout_s=1.0).score(
        [Sample(response, "1") for response in ("#### 1", "hang", "#### 2")]
    )
    assert outcomes(verdicts) == [CORRECT, TIMEOUT, WRONG]
    assert verdicts[0].parts == {"sleepy": 1.0}
    parts = {"raising": PartConfig(function=f"{judges.__name__}.raising_part")}
    (verdict,) = supervise(reward=RewardConfig(parts=parts)).score([Sample("#### 1", "1")])
    assert (verdict.outcome, verdict.detail) == (ERROR, "LookupError: no style")


# Processes


def test_a_worker_killed_in_flight_costs_only_a_retry(supervise):
    supervisor = supervise(workers=2)
    futures = [supervisor.submit(judges.of("sleeps", f"0.00{1 + index % 9}")) for index in range(300)]
    settled = []
    for index, future in enumerate(futures):
        future.add_done_callback(lambda _, index=index: settled.append(index))
    for count in (50, 150):
        assert wait_until(lambda count=count: len(settled) > count)
        os.kill(random.choice(supervisor.pids), signal.SIGKILL)
    assert outcomes([future.result() for future in futures]) == [CORRECT] * 300
    assert sorted(settled) == list(range(300))
    assert supervisor.replaced >= 2


def test_a_fork_server_that_died_is_replaced(supervise):
    supervisor = supervise(workers=2)
    futures = [supervisor.submit(judges.of("sleeps", "0.005")) for _ in range(100)]
    wait(futures[:20])
    os.kill(supervisor._server._process.pid, signal.SIGKILL)
    assert outcomes([future.result() for future in futures]) == [CORRECT] * 100
    os.kill(supervisor._server._process.pid, signal.SIGKILL)
    assert outcomes(supervisor.score([math(0)] * 3)) == [CORRECT] * 3


def test_a_slow_answer_does_not_hold_up_quick_ones_and_still_gets_its_verdict(supervise):
    supervisor = supervise()
    supervisor.ready()
    samples = [judges.of("sleeps", "1.5"), *[judges.of("echo", str(index)) for index in range(30)]]
    order = []
    futures = [supervisor.submit(sample) for sample in samples]
    for sample, future in zip(samples, futures, strict=True):
        future.add_done_callback(lambda _, sample=sample: order.append(sample.response))
    assert futures[0].result().outcome is CORRECT
    assert order == [*map(str, range(30)), "1.5"]


def test_a_memory_bomb_is_an_error_and_the_next_answer_is_fine(supervise):
    supervisor = supervise(memory_mib=1024)
    verdicts = supervisor.score([judges.of("eats_memory"), math(0), judges.of("eats_memory"), math(0)])
    assert outcomes(verdicts) == [ERROR, CORRECT, ERROR, CORRECT]
    assert "MemoryError" in verdicts[0].detail


def test_a_worker_that_has_grown_large_is_replaced_after_its_answer(supervise):
    supervisor = supervise(memory_mib=2048)
    pids = [supervisor.submit(judges.of("pid")).result().detail for _ in range(2)]
    assert supervisor.submit(judges.of("grows")).result().outcome is CORRECT
    assert pids[0] == pids[1] != supervisor.submit(judges.of("pid")).result().detail
    assert supervisor.replaced == 0


# Starting and ending


def test_a_reward_that_is_not_there_is_reported_before_anything_is_scored(supervise):
    supervisor = supervise(reward=RewardConfig(parts={"style": PartConfig(function="no_such_module.style")}))
    message = r"reward\.parts\.style: no_such_module\.style: no_such_module cannot be imported"
    with pytest.raises(ConfigError, match=message):
        supervisor.ready()
    (verdict,) = supervisor.score([math(0)])
    assert verdict.outcome is ERROR
    assert "no_such_module cannot be imported" in verdict.detail


def test_closing_settles_what_waits_and_what_is_under_way(supervise):
    supervisor = supervise(workers=2)
    futures = [supervisor.submit(judges.of("sleeps", FOREVER)) for _ in range(10)]
    assert wait_until(lambda: len(supervisor.pids) == 2)
    supervisor.close()
    assert [(verdict.outcome, verdict.detail) for verdict in (future.result(timeout=60) for future in futures)] == [
        (ERROR, CLOSED.detail)
    ] * 10
    assert supervisor.submit(math(0)).result(timeout=60).detail == CLOSED.detail


def test_closing_at_once_or_twice_is_fine(supervise):
    supervisor = supervise(workers=2)
    future = supervisor.submit(math(0))
    supervisor.close()
    supervisor.close()
    assert future.result(timeout=60).outcome in (CORRECT, ERROR)


def test_a_closed_fork_server_does_not_start_again():
    server = ForkServer(scoring())
    server.close()
    with pytest.raises(WorkerError, match="the verifier was closed"):
        server.fork()


HARMFUL = ("forks", "forks_and_dies", "forks_and_hangs", "spins_in_c", "dies", "raises")


def test_nothing_is_left_behind_after_close(monkeypatch, tmp_path):
    monkeypatch.setenv(MARK, str(tmp_path))
    files, folders = open_files(), program_folders()
    supervisor = Supervisor(scoring(timeout_s=1.0, code=CodeConfig(timeout_s=2.0, test_timeout_s=1.0)), workers=2)
    supervisor.score([*[judges.of(judge, FOREVER) for judge in HARMFUL], Sample("print(2)", CASES), ENDLESS, math(0)])
    processes = below(supervisor._server._process.pid)
    assert len(marked(str(tmp_path))) >= 2
    supervisor.close()
    assert none_left(lambda: marked(str(tmp_path)))
    assert none_left(lambda: alive(processes))
    assert open_files() == files
    assert program_folders() <= folders


OWNER = """
import os, sys, time
from tests.workers.verifier import judges
from tests.workers.verifier.test_supervisor import ENDLESS, math, scoring
from workers.verifier.supervisor import Supervisor

supervisor = Supervisor(scoring(), workers=3)
supervisor.score([judges.of("forks"), judges.of("forks_and_dies"), math(0)])
for sample in (judges.of("forks_and_hangs", "0"), judges.of("spins_in_c"), ENDLESS):
    supervisor.submit(sample)
while len(supervisor.pids) < 3:
    time.sleep(0.01)
time.sleep(1.0)
fork = os.fork() if "fork" in sys.argv else 0
if "fork" in sys.argv and fork == 0:
    time.sleep(10**6)  # holds copies of all descriptors
print(fork, flush=True)
time.sleep(10**6)
"""


@pytest.mark.parametrize("forked", [False, True])
def test_nothing_is_left_behind_when_the_owner_is_killed(tmp_path, forked):
    folders = program_folders()
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, *["fork"] * forked],
        env={**os.environ, MARK: str(tmp_path)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    try:
        fork = int(owner.stdout.readline())
        processes = below(owner.pid)
        assert len(processes) >= 5
    finally:
        owner.kill()
        owner.wait()
        owner.stdout.close()
    assert none_left(lambda: {pid for pid, _ in alive(processes)} - {fork})
    assert none_left(lambda: marked(str(tmp_path)) - {fork})
    if fork:
        os.kill(fork, signal.SIGKILL)
    assert program_folders() <= folders


# A property


MIXED = [
    *[Sample(f"so \\boxed{{\\frac{{{number}}}{{2}}}}", "1.5") for number in (3, 4)],
    Sample("no answer", "1"),
    Sample("#### x^2+2x+1", "(x+1)^2"),
    Sample("def twice(x):\n    return 2 * x", TESTS),
    Sample("def twice(x):\n    return x ** 2", TESTS),
    Sample("print(2 * int(input()))", CASES),
    judges.of("echo", "0.25"),
    judges.of("draws"),
    judges.of("raises"),
    Sample("\\boxed{1}\\boxed{3}", judges.of("echo").answer),
]


@pytest.fixture(scope="module")
def supervisors() -> Iterator[tuple[list[Supervisor], list[tuple[object, ...]]]]:
    """One with one worker, one with three; and what is found when answers are scored one by one."""
    supervisors = [Supervisor(scoring(), workers=1), Supervisor(scoring(), workers=3)]
    expected = [found(supervisors[0].submit(sample).result()) for sample in MIXED]
    yield supervisors, expected
    for supervisor in supervisors:
        supervisor.close()


def found(verdict: Verdict) -> tuple[object, ...]:
    return verdict.outcome, verdict.reward, verdict.detail, dict(verdict.parts)


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    order=st.lists(st.integers(0, len(MIXED) - 1), min_size=1, max_size=30),
    cut=st.integers(0, 30),
    several=st.booleans(),
    kill=st.booleans(),
)
def test_verdicts_depend_on_nothing_but_the_answer(supervisors, order, cut, several, kill):
    (one, three), expected = supervisors
    supervisor = three if several else one
    samples = [MIXED[place] for place in order]
    verdicts = supervisor.score(samples[:cut])
    futures = [supervisor.submit(sample) for sample in samples[cut:]]
    if kill and supervisor.pids:
        os.kill(supervisor.pids[0], signal.SIGKILL)
    verdicts += [future.result() for future in futures]
    assert [found(verdict) for verdict in verdicts] == [expected[place] for place in order]
