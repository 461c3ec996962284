"""What a program and its tests may do, and which outcome they get: function tests."""

# ruff: noqa: E501  a program is a line

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from delta.data.references import parse_reference
from delta.types import FunctionTests, Outcome
from tests.conftest import ROOT
from tests.workers.verifier.code.conftest import GOOD, TESTS, config, left_behind, needs_bubblewrap
from workers.verifier.code import CodeConfig, CodeJudge, SandboxMode
from workers.verifier.code.examiner.server import undefined_names
from workers.verifier.code.sandbox import descendants

LIAR = "type('Yes', (float,), {'__eq__': lambda s, o: True, '__ne__': lambda s, o: True})()"
"""Of a float that claims to equal everything and nothing."""

PASSES = {
    "plain values": ("def f(*a, **k): return [a, k]", "assert f(1, [2.5], x={'a': (None,)}) == [(1, [2.5]), {'x': {'a': (None,)}}]"),
    "a check function": ("def f(x): return x + 1", "def check(candidate):\n    assert candidate(1) == 2\ncheck(f)"),
    "a name in the tests' own helper": ("def f(x): return x", "def g(y):\n    return f(y)\nassert g(3) == 3"),
    "a built-in's name": ("def sum(a, b): return a - b", "assert sum(5, 3) == 2\nassert max(1, 2) == 2"),
    "a helper of the program": (
        "def poly(xs, x): return sum(c * x ** k for k, c in enumerate(xs))\ndef f(xs): return -xs[0] / xs[1]",
        "import math, random\nfor _ in range(20):\n    xs = [random.randint(1, 9), 2]\n"
        "    assert math.isclose(poly(xs, f(xs)), 0, abs_tol=1e-6)",
    ),
    "a class of the program": (
        "class Node:\n def __init__(self, v): self.v, self.left, self.right = v, None, None\n"
        "def f(node): return 0 if node is None else 1 + max(f(node.left), f(node.right))",
        "root = Node(1)\nroot.left = Node(2)\nroot.left.right = Node(3)\nassert f(root) == 3\nassert root.left.v == 2\n"
        "assert isinstance(root, Node)\nassert root.left is root.left",
    ),
    "objects of the program that are equal": (
        "from dataclasses import dataclass\n@dataclass\nclass P:\n x: int\n y: int\ndef f(a, b): return P(a.x + b.x, a.y + b.y)",
        "assert f(P(1, 2), P(3, 4)) == P(4, 6)\nassert f(P(1, 2), P(3, 4)) != P(4, 7)\nassert [P(1, 1)] == [P(1, 1)]\n"
        "assert str(P(1, 2)) == 'P(x=1, y=2)'",
    ),
    "an object in a list": (
        "class P:\n def __init__(s, a, b): s.a, s.b = a, b\ndef f(ps): return sum(p.b - p.a for p in ps)",
        "assert f([P(5, 24), P(15, 25)]) == 29",
    ),
    "an object of the tests": (
        "def f(node):\n n, last = 0, None\n while node: n += node.v; node.seen = True; last = node; node = node.next\n"
        " return n, last",
        "class N:\n    def __init__(self, v, next=None):\n        self.v, self.next, self.seen = v, next, False\n"
        "a = N(1, N(2))\nn, last = f(a)\nassert n == 3 and last is a.next and a.seen",
    ),
    "a function of the tests": (
        "def f(g, xs): return sorted(map(g, xs), key=g)",
        "assert f(lambda x: -x, [1, 2]) == [1, 2][::1] or f(lambda x: -x, [1, 2]) == [-1, -2]",
    ),
    "a function of the tests that raises": (
        "def f(g):\n try: return g()\n except ValueError as e: return str(e)",
        "def bad():\n    raise ValueError('no')\nassert f(bad) == 'no'",
    ),
    "a function of the program in the tests' function": (
        "def f(g, x): return g(x)\ndef h(x): return x + 1",
        "assert f(h, 1) == 2\nassert f(lambda x: h(h(x)), 1) == 3",
    ),
    "functions of libraries": ("def f(g, x): return g(x)", "import math\nassert f(math.sqrt, 4) == 2 and f(len, 'ab') == 2"),
    "a function that returns a function": ("def f(x): return lambda y: x + y", "assert f(1)(2) == 3"),
    "a generator": ("def f(n):\n for i in range(n): yield i", "assert list(f(3)) == [0, 1, 2]\ng = f(2)\nassert next(g) == 0"),
    "an endless generator": (
        "def f():\n n = 0\n while True: yield n; n += 1",
        "import itertools\nassert list(itertools.islice(f(), 3)) == [0, 1, 2]",
    ),
    "lazy results": (
        "def f(x): return [map(str, x), zip(x, x), filter(None, x), reversed(x), enumerate(x), {1: 2}.values()]",
        "assert [list(part) for part in f([0, 1])] == [['0', '1'], [(0, 0), (1, 1)], [1], [1, 0], [(0, 0), (1, 1)], [2]]",
    ),
    "in place": ("def f(x): x.sort()", "x = [3, 1, 2]\nassert f(x) is None\nassert x == [1, 2, 3]"),
    "in place, inside": (
        "def f(grid): grid[0][1] = 5",
        "grid = [[0, 0], [0]]\nrow = grid[0]\nf(grid)\nassert grid == [[0, 5], [0]] and row == [0, 5]",
    ),
    "in place, by name": ("def f(*, x): x.clear()", "x = {1: 2}\nf(x=x)\nassert x == {}"),
    "an argument that is reused": ("def f(x): return x.pop()", "x = [1, 2]\nassert f(x) == 2 and x == [1, 2]"),
    "a built-in exception": (
        "def f(x): raise {1: ValueError('one'), 2: KeyError('two'), 3: MyError('three')}[x]\nclass MyError(TypeError): pass",
        "for x, kind, text in ((1, ValueError, 'one'), (2, KeyError, \"'two'\"), (3, TypeError, 'three')):\n"
        "    try:\n        f(x)\n        assert False\n    except kind as error:\n        assert str(error) == text",
    ),
    "unittest": (
        "def f(x): return x / 3",
        "import unittest\nclass T(unittest.TestCase):\n    def test_f(self):\n        self.assertAlmostEqual(f(1), 0.3333333333)\n"
        "        with self.assertRaises(TypeError):\n            f('a')\nunittest.main()",
    ),
    "a guard in the tests": ("def f(): return 1", "if __name__ == '__main__':\n    assert f() == 1"),
    "a guard in the program": ("def f(): return 1\nif __name__ == '__main__':\n    f = None", "assert f() == 1"),
    "a module that only the program imports": ("import sys\ndef f(x): return sys.getsizeof(x)", "assert f(()) == sys.getsizeof(())"),
    "a constant of the program": ("MOD = 7\ndef f(x): return x % MOD", "assert f(10) == 10 % MOD"),
    "exact types": ("import decimal, fractions, datetime\ndef f(): return [decimal.Decimal('0.10'), fractions.Fraction(1, 3), "
        "datetime.date(2024, 2, 29)]", "from decimal import Decimal\nfrom fractions import Fraction\nimport datetime\n"
        "assert f() == [Decimal('0.1'), Fraction(1, 3), datetime.date(2024, 2, 29)]"),
    "counters and the like": ("from collections import *\ndef f(x): return [Counter(x), OrderedDict(a=1), deque(x), defaultdict(int)]",
        "from collections import *\nassert f('aab') == [{'a': 2, 'b': 1}, OrderedDict(a=1), deque('aab'), {}]"),
    "large and odd numbers": ("def f(x): return x", "big = 10 ** 6000\nassert f(big) == big and f(-0.0) == 0 and f(float('inf')) > big\n"
        "assert f(float('nan')) != f(float('nan'))"),
    "text": ("def f(x): return x", "for x in ('\\udc80', '\\0', 'ä🐍', 'x' * 10**6):\n    assert f(x) == x"),
    "deep recursion": ("def f(n): return 0 if n == 0 else 1 + f(n - 1)", "assert f(950) == 950"),
    "raised recursion": ("import sys\nsys.setrecursionlimit(10**5)\ndef f(n): return 0 if n == 0 else 1 + f(n - 1)", "assert f(20000) == 20000"),
    "output": ("def f(): print('x' * 10**6); return 1", "assert f() == 1"),
    "files": ("def f():\n with open('a.txt', 'w') as o: o.write('hi')\n return open('/proc/self/cwd/a.txt').read()", "assert f() == 'hi'"),
    "threads": ("import threading\ndef f():\n r = []\n t = threading.Thread(target=r.append, args=(1,)); t.start(); t.join()\n return r", "assert f() == [1]"),
    "a child": ("import os\ndef f():\n p = os.fork()\n if p == 0: os._exit(3)\n return os.waitstatus_to_exitcode(os.waitpid(p, 0)[1])", "assert f() == 3"),
    "asynchronous inside": ("import asyncio\nasync def g(): return 1\ndef f(): return asyncio.run(g())", "assert f() == 1"),
    "the order of sets": ("def f(): return list({'a', 'b', 'c', 'd'})", "assert f() == list({'a', 'b', 'c', 'd'})"),
    "other line ends": ("def f():\r\n    return 1\r\n", "assert f() == 1\r\n"),
    "an import of any kind": ("import re, json, typing, math, bisect, heapq, string, statistics, functools, itertools, operator, random, "
        "collections, dataclasses, enum, copy, datetime, decimal, fractions, textwrap, hashlib, zlib, csv, io, time, uuid, base64, cmath, "
        "ctypes, array, struct, unicodedata, queue, threading, asyncio, contextlib, inspect, sqlite3\ndef f(): return 1", "assert f() == 1"),
}  # fmt: skip

FAILS = {
    "a failed assertion": (
        "def f(x): return x",
        "assert f(1) == 2",
        Outcome.wrong,
        "AssertionError in line 1: assert f(1) == 2",
    ),
    "an exception": ("def f(x): return 1 / 0", "assert f(1) == 2", Outcome.wrong, "ZeroDivisionError"),
    "an exception of its own": ("class Odd(Exception): pass\ndef f(x): raise Odd", "f(1)", Outcome.wrong, "Odd"),
    "an exception at once": ("1 / 0", "f(1)", Outcome.wrong, "the program raised ZeroDivisionError"),
    "no function": ("def g(x): return x", "assert f(1) == 1", Outcome.wrong, "does not define 'f'"),
    "no helper": ("def f(x): return x", "assert g(f(1)) == 1", Outcome.wrong, "NameError"),
    "no function but a number": ("f = 6", "assert f(1) == 6", Outcome.wrong, "no function"),
    "a swallowed exit": (
        "import os\ndef f(x): os._exit(0)",
        "try:\n    f(1)\nexcept BaseException:\n    pass",
        Outcome.wrong,
        "ended",
    ),
    "a stopped iteration": (
        "def f(x): raise StopIteration",
        "assert all(a == b for a, b in zip(map(f, [1]), [1]))",
        Outcome.wrong,
        "StopIteration",
    ),
    "a failed unittest": (
        "def f(x): return 0",
        "import unittest\nclass T(unittest.TestCase):\n    def test_f(self):\n        self.assertEqual(f(1), 1)\nunittest.main()",
        Outcome.wrong,
        "exit code",
    ),
    "a syntax error": ("def f(x) return x", "assert f(1) == 1", Outcome.unparsable, "SyntaxError"),
    "nothing": (" \n", "assert f(1) == 1", Outcome.unparsable, "no program"),
    "broken tests": (GOOD, "assert total([1] ==", Outcome.error, "do not compile"),
    "tests that raise": (GOOD, "import no_such_module\nassert total([]) == 0", Outcome.error, "before they use"),
    "tests that test nothing": (GOOD, "assert True", Outcome.error, "never use"),
    "a late import error": (GOOD, "def check(candidate):\n    pass\ncheck(total)", Outcome.error, "never use"),
}


@pytest.mark.parametrize("name", PASSES)
def test_a_right_program_is_correct_with(judge: CodeJudge, name: str):
    program, tests = PASSES[name]
    entry_point = "sum" if "def sum" in program else "f"
    verdict = judge.judge(program, FunctionTests(tests, entry_point))
    assert (verdict.outcome, verdict.reward) == (Outcome.correct, 1.0), verdict.detail


@pytest.mark.parametrize("name", FAILS)
def test_a_failure_has_its_outcome_and_a_reason(judge: CodeJudge, name: str):
    program, tests, outcome, reason = FAILS[name]
    verdict = judge.judge(program, FunctionTests(tests, "total" if program == GOOD else "f"))
    assert (verdict.outcome, verdict.reward) == (outcome, 0.0), verdict.detail
    assert reason in verdict.detail


@pytest.mark.parametrize("result", ["nan", "[-inf, {'a': nan}]", "inf"])
def test_calls_of_a_data_file_may_expect_what_is_not_finite(judge: CodeJudge, result: str):
    expected = eval(result, {"nan": math.nan, "inf": math.inf})
    tests = parse_reference({"tests": {"fn_name": "f", "inputs": [[math.inf]], "outputs": [expected]}})
    for returned, outcome in ((result, Outcome.correct), *((other, Outcome.wrong) for other in ("-1", "[]", LIAR))):
        verdict = judge.judge(f"import math\ndef f(x, inf=math.inf, nan=math.nan): return {returned}", tests)
        assert verdict.outcome is outcome, verdict.detail


def test_the_deadline_counts_from_the_start_of_the_program(judge: CodeJudge):
    judge.ready()
    started = time.monotonic()
    verdict = judge.judge("def f():\n while True: pass", FunctionTests("f()", "f"))
    assert verdict.outcome is Outcome.timeout
    assert verdict.reward == 0.0
    assert judge.config.timeout_s <= verdict.seconds <= time.monotonic() - started < judge.config.timeout_s + 2


def test_processor_time_is_limited_too():
    with CodeJudge(config(SandboxMode.auto, cpu_s=1, timeout_s=10.0)) as judge:
        verdict = judge.judge("def f():\n while True: pass", FunctionTests("f()", "f"))
    assert verdict.outcome is Outcome.timeout
    assert "processor" in verdict.detail
    assert verdict.seconds < 6


def test_tests_that_hang_are_ended_and_the_next_program_is_judged(judge: CodeJudge):
    verdict = judge.judge(GOOD, FunctionTests("assert total([]) == 0\nwhile True: pass", "total"))
    assert verdict.outcome is Outcome.timeout
    assert judge.judge(GOOD, TESTS).outcome is Outcome.correct


def test_a_dead_tests_process_is_replaced(judge: CodeJudge):
    judge.ready()
    for pid in list(descendants(judge._examiner._root))[::-1]:
        os.kill(pid, signal.SIGKILL)
    judge._examiner._process.wait(5)
    assert judge.judge(GOOD, TESTS).outcome is Outcome.correct


def test_a_dead_spare_sandbox_is_replaced(judge: CodeJudge):
    judge.ready()
    for pid in list(descendants(judge._spare._root))[::-1]:
        os.kill(pid, signal.SIGKILL)
    judge._spare._process.wait(5)
    assert judge.judge(GOOD, TESTS).outcome is Outcome.correct


@pytest.mark.parametrize("mode", [pytest.param(SandboxMode.bubblewrap, marks=needs_bubblewrap), SandboxMode.process])
def test_a_closed_judge_leaves_nothing_behind(mode: SandboxMode):
    before = left_behind()
    with CodeJudge(config(mode)) as judge:
        for _ in range(5):
            assert judge.judge(GOOD, TESTS).outcome is Outcome.correct
        judge.judge("import os, time\nif os.fork() == 0:\n os.setsid()\n time.sleep(1000)\n", TESTS)
    assert left_behind() == before


VICTIM = """
import os, sys
from workers.verifier.code import CodeConfig, CodeJudge, SandboxMode
from delta.types import FunctionTests
judge = CodeJudge(CodeConfig(sandbox=SandboxMode[sys.argv[1]], timeout_s=60, cpu_s=60))
judge.ready()
print("ready", flush=True)
judge.judge('''import os, time, signal
for s in range(1, 32):
    try: signal.signal(s, signal.SIG_IGN)
    except (OSError, ValueError): pass
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() != 0: os._exit(0)
        time.sleep(1000)
while True: time.sleep(1)''', FunctionTests("f()", "f"))
"""


@pytest.mark.parametrize("mode", [pytest.param("bubblewrap", marks=needs_bubblewrap), "process"])
def test_a_killed_judge_leaves_nothing_behind(mode: str):
    folders = left_behind()[3]
    victim = subprocess.Popen([sys.executable, "-c", VICTIM, mode], cwd=ROOT, stdout=subprocess.PIPE)
    assert victim.stdout.readline() == b"ready\n"
    time.sleep(0.5)
    below = [pid for pid in descendants(victim.pid) if pid != victim.pid]
    assert len(below) >= 6
    victim.kill()
    victim.wait()
    victim.stdout.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in below):
        time.sleep(0.05)
    assert not [pid for pid in below if Path(f"/proc/{pid}").exists()]
    while time.monotonic() < deadline and left_behind()[3] > folders:
        time.sleep(0.05)
    assert left_behind()[3] == folders


@needs_bubblewrap
def test_slots_never_share_a_user(judge: CodeJudge):
    if os.getuid() != 0 or judge.mode is not SandboxMode.bubblewrap:
        pytest.skip("user ids are taken as root")
    with CodeJudge(config(SandboxMode.bubblewrap)) as other:
        uids = [uid for one in (judge, other) for uid in (*one._program_uids, one._tests_uid)]
    assert len(set(uids)) == 6
    assert 0 not in uids


def test_process_mode_says_what_it_does_not_stop(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    from workers.verifier.code import sandbox

    monkeypatch.setattr(sandbox, "probe", lambda: (False, "no namespaces"))
    assert sandbox.resolve(SandboxMode.auto) is SandboxMode.process
    assert "network" in caplog.text
    assert "no namespaces" in caplog.text
    with pytest.raises(sandbox.SandboxError, match="no namespaces"):
        sandbox.resolve(SandboxMode.bubblewrap)


def test_bubblewrap_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch):
    from workers.verifier.code import sandbox

    monkeypatch.setenv("PATH", "/nonexistent")
    works, reason = sandbox.probe.__wrapped__()
    assert not works
    assert "bwrap" in reason


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("assert f(1) == g", ["f", "g"]),
        ("def check(candidate):\n    assert candidate(h(1))\ncheck(f)", ["check", "f", "h"]),
        ("import math\nx = [y for y in math.z(k)]\nclass A(B): pass", ["k", "B"]),
        ("def a():\n    global b\n    b = 1\na()\nprint(b, len([]))", []),
        ("def a(b):\n    return b\nprint(b)", ["b"]),
        ("try:\n    f()\nexcept E as e:\n    print(e)", ["f", "E"]),
    ],
)
def test_names_that_the_tests_leave_open_are_found(source: str, names: list[str]):
    assert sorted(undefined_names(source)) == sorted(set(names) - {"check"})


@pytest.mark.parametrize(
    "changes",
    [
        {"timeout_s": 0.0},
        {"test_timeout_s": 20.0},
        {"memory_mib": 1},
        {"max_processes": 1},
        {"max_output_mib": 100},
        {"cpu_s": 0},
        {"max_answer_mib": 0},
    ],
)
def test_impossible_limits_are_refused(changes: dict[str, float]):
    with pytest.raises(ValueError, match=next(iter(changes))):
        CodeConfig(**changes)
