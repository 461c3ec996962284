"""Programs that read standard input and write standard output."""

import pytest

from delta.types import Outcome, StdioCase, StdioTests
from workers.verifier.code import CodeJudge
from workers.verifier.code.output import same_output


def cases(*pairs: tuple[str, str]) -> StdioTests:
    return StdioTests(tuple(StdioCase(*pair) for pair in pairs))


ECHO = cases(("1 2\n3\n", "1 2\n3\n"), ("", ""), ("a" * 100_000, "a" * 100_000))

RIGHT = {
    "sys.stdin": ("import sys\nsys.stdout.write(sys.stdin.read())", ECHO),
    "buffers": ("import sys\nsys.stdout.buffer.write(sys.stdin.buffer.read())", ECHO),
    "descriptors": ("import os\nwhile data := os.read(0, 1000): os.write(1, data)", ECHO),
    "open(0)": ("print(open(0).read(), end='')", ECHO),
    "input": ("while True:\n try: print(input())\n except EOFError: break", ECHO),
    "lines": ("import sys\nfor line in sys.stdin: print(line.strip())", ECHO),
    "a main function": ("def main():\n print(int(input()) + 1)\nif __name__ == '__main__': main()", cases(("1", "2"))),
    "exit code 0": ("import sys\nprint(1)\nsys.exit()", cases(("", "1"))),
    "exit": ("print(1)\nexit()", cases(("", "1"))),
    "quit": ("print(1)\nquit(0)", cases(("", "1"))),
    "exit at once": ("import os\nprint(1, flush=True)\nos._exit(0)", cases(("", "1"))),
    "atexit": ("import atexit\natexit.register(print, 2)\nprint(1)", cases(("", "1\n2"))),
    "a thread at the end": (
        "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.1), print(2))).start()\nprint(1)",
        cases(("", "1\n2")),
    ),
    "a thread with a large stack": (
        "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(64 * 2**20)\n"
        "def main():\n def f(n): return 0 if n == 0 else 1 + f(n - 1)\n print(f(10**5))\n"
        "t = threading.Thread(target=main); t.start(); t.join()",
        cases(("", "100000")),
    ),
    "decimals": ("print(f'{2 / 3:.9f}')", cases(("", "0.66666667"))),
    "text": ("print(input()[::-1])", cases(("äß🐍", "🐍ßä"))),
    "warnings": ("import sys\nprint('note', file=sys.stderr)\nprint(1 is 1)", cases(("", "True"))),
    "a state of its own": (
        "n = globals().get('n', 0) + 1\nprint(n)\nopen('x', 'a').close()",
        cases(("", "1"), ("", "1")),
    ),
    "dataclasses and pickle": (
        "import pickle\nfrom dataclasses import dataclass\n@dataclass\nclass P:\n x: int\n"
        "print(pickle.loads(pickle.dumps(P(1))).x)",
        cases(("", "1")),
    ),
}

WRONG = {
    "other output": ("print(2)", Outcome.wrong, "case 1 of 2: the output differs"),
    "the second case": ("print(1)", Outcome.wrong, "case 2 of 2"),
    "nothing": ("pass", Outcome.wrong, "differs"),
    "an exit code": ("print(input())\nimport sys\nsys.exit(3)", Outcome.wrong, "exit code 3"),
    "an exception": ("print(input())\nraise ValueError", Outcome.wrong, "exit code 1"),
    "a signal": ("import os\nprint(input(), flush=True)\nos.kill(os.getpid(), 15)", Outcome.wrong, "exit code -15"),
    "a syntax error": ("print(", Outcome.unparsable, "SyntaxError"),
    "no end": ("while True: pass", Outcome.timeout, "still running after 1.2 s"),
    "input that never comes": ("import time\ninput()\ntime.sleep(100)", Outcome.timeout, "still running"),
    "too much output": ("print('x' * 10**7)", Outcome.wrong, "MiB of output"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_program_is_correct_with(judge: CodeJudge, name: str):
    verdict = judge.judge(*RIGHT[name])
    assert (verdict.outcome, verdict.reward) == (Outcome.correct, 1.0), verdict.detail


@pytest.mark.parametrize("name", WRONG)
def test_a_failure_has_its_outcome_and_a_reason(judge: CodeJudge, name: str):
    program, outcome, reason = WRONG[name]
    verdict = judge.judge(program, cases(("1", "1"), ("2", "2")))
    assert (verdict.outcome, verdict.reward) == (outcome, 0.0), verdict.detail
    assert reason in verdict.detail


def test_all_cases_share_the_deadline_of_the_program(judge: CodeJudge):
    verdict = judge.judge("import time\ntime.sleep(0.7)\nprint(1)", cases(*[("", "1")] * 5))
    assert verdict.outcome is Outcome.timeout
    assert verdict.detail.startswith("case ") or "still running" in verdict.detail
    assert verdict.seconds < judge.config.timeout_s + 1


def test_no_cases_are_an_error(judge: CodeJudge):
    assert judge.judge("print(1)", StdioTests(())).outcome is Outcome.error


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("1\n", "1"),
        ("1 \r\n2\r\n", "1\n2\n\n"),
        ("1 2 3", "1\n2\n3"),
        ("0.3333333", "0.33333333333"),
        ("1e-7", "0.0"),
        ("2.0", "2"),
        ("1000000.5", "1000001.0"),
        ("-0.0", "0.0"),
        ("YES", "YES"),
        ("", "\n"),
    ],
)
def test_outputs_that_are_the_same(printed: str, expected: str):
    assert same_output(printed, expected)


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("1", "2"),
        ("1 2", "1"),
        ("yes", "YES"),
        ("1000001", "1000000"),
        ("01", "1"),
        ("0.33334", "0.33333"),
        ("nan", "0.0"),
        ("inf", "1.5"),
        ("1e999", "1.5"),
        ("1_0.0", "10.0"),
        ("", "0"),
        ("0.0", ""),
        ("\N{ARABIC-INDIC DIGIT ONE}.0", "1.0"),
    ],
)
def test_outputs_that_differ(printed: str, expected: str):
    assert not same_output(printed, expected)
