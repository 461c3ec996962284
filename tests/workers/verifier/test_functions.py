"""The verifier as two plain functions, in programs that know nothing of clusters."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from delta.types import Outcome
from tests.conftest import ROOT
from tests.workers.verifier.leftovers import MARK, marked, none_left, program_folders
from workers.verifier import score_code, score_math

CORRECT, WRONG, UNPARSABLE, TIMEOUT, ERROR = Outcome

PLAIN = """
from workers.verifier import score_code, score_math
print(score_math("so \\\\boxed{1/2}", 0.5).outcome.value)
print(score_code("def f(): return 1", "assert f() == 2", "f").outcome.value)
"""

FORKS = """
import os, sys, threading
from workers.verifier import score_math
print(score_math("#### 1", "1").outcome.value, flush=True)
pid = os.fork()
print(score_math("#### 1", "2").outcome.value, flush=True)
if pid == 0:
    sys.exit()  # runs what is registered for the exit, of which nothing may touch the parent's processes
assert os.waitpid(pid, 0)[1] == 0
print(score_math("#### 2", "2").outcome.value, flush=True)
from workers.verifier.functions import _shared
print(_shared.supervisor().replaced)
"""


def run(script: str, folder: Path) -> list[str]:
    """Lines that a script prints; nothing may be left of it."""
    folders = program_folders()
    (folder / "script.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), MARK: str(folder)}
    finished = subprocess.run(
        [sys.executable, "script.py"], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    assert none_left(lambda: marked(str(folder)))
    assert program_folders() <= folders
    return finished.stdout.splitlines()


def test_a_script_without_a_main_guard_in_another_folder_gets_its_verdicts_and_leaves_nothing(tmp_path):
    assert run(PLAIN, tmp_path) == ["correct", "wrong"]


def test_a_fork_of_the_caller_scores_with_processes_of_its_own(tmp_path):
    lines = run(FORKS, tmp_path)
    assert lines[0] == "correct"
    assert lines[1:3] == ["wrong", "wrong"]
    assert lines[3:] == ["correct", "0"]


def test_threads_share_one_verifier():
    def score(number: int) -> Outcome:
        return score_math(f"#### {number % 3}", number % 2).outcome

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(score, range(60)))
    assert found == [CORRECT if number % 3 == number % 2 else WRONG for number in range(60)]


def test_programs_may_read_their_standard_input():
    tests = [{"input": "2\n", "output": "4\n"}]
    assert score_code("print(2 * int(input()))", tests).outcome is CORRECT
    assert score_code("print(3 * int(input()))", {"inputs": ["2\n"], "outputs": ["4\n"]}).outcome is WRONG


@pytest.mark.parametrize("answer", ["", " ", None, True])
def test_a_reference_that_is_none_is_the_callers_mistake(answer):
    with pytest.raises(ValueError, match="answer is"):
        score_math("#### 1", answer)
    with pytest.raises(ValueError, match="entry_point is None"):
        score_code("def f(): pass", "assert f()")
