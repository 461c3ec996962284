"""Verdicts on programs per second, and how long each takes, as JSON.

    python -m tests.bench.code_verdicts               two judges in two processes, 60 rounds of ten function tests each
    python -m tests.bench.code_verdicts --quick       one round: tries the program, says nothing about speed

Each judge runs in a process of its own, as in the verifier pool. Programs are our own: most are right, some are wrong,
raise or do not compile, as a policy's are; none runs into a timeout, whose cost is the timeout. Time is taken from the
moment when all judges are warm. A rate is that of all judges together over one round of the slowest.
"""

import argparse
import json
import math
import multiprocessing
import statistics
import time
from multiprocessing.synchronize import Barrier

from delta.types import FunctionTests, StdioCase, StdioTests
from workers.verifier.code import CodeConfig, CodeJudge, SandboxMode

GOAL_PER_S = 25.0
"""Function tests, two judges on two cores."""

_GCD = "def gcd(a, b):\n    while b:\n        a, b = b, a % b\n    return a\n"
_GCD_TESTS = "assert gcd(12, 18) == 6\nassert gcd(7, 5) == 1\nassert gcd(0, 4) == 4\n"
_WORDS = (
    "from collections import Counter\nfrom typing import List\n\n"
    "def common(words: List[str], k: int) -> List[str]:\n"
    "    counts = Counter(words)\n    return sorted(counts, key=lambda word: (-counts[word], word))[:k]\n"
)
_WORDS_TESTS = (
    "def check(candidate):\n    assert candidate(['b', 'a', 'b'], 1) == ['b']\n"
    "    assert candidate(['b', 'a'], 5) == ['a', 'b']\n    assert candidate([], 2) == []\ncheck(common)\n"
)
_RUNS = (
    "import re\n\ndef encode(text):\n"
    "    return ''.join(f'{len(m.group())}{m.group()[0]}' for m in re.finditer(r'(.)\\1*', text))\n"
)
_RUNS_TESTS = "assert encode('aaab') == '3a1b'\nassert encode('') == ''\nassert encode('zz') == '2z'\n"
_MEAN = (
    "import math\n\ndef spread(xs):\n    m = sum(xs) / len(xs)\n"
    "    return math.sqrt(sum((x - m) ** 2 for x in xs) / len(xs))\n"
)
_MEAN_TESTS = (
    "import math, random\nfor _ in range(50):\n    xs = [random.random() for _ in range(20)]\n    m = sum(xs) / 20\n"
    "    assert math.isclose(spread(xs) ** 2, sum(x * x for x in xs) / 20 - m * m, rel_tol=1e-6)\n"
)
_SIEVE = (
    "def primes(n):\n    flags = [True] * (n + 1)\n    for p in range(2, int(n ** 0.5) + 1):\n"
    "        if flags[p]:\n            flags[p * p :: p] = [False] * len(flags[p * p :: p])\n"
    "    return [p for p in range(2, n + 1) if flags[p]]\n"
)
_SIEVE_TESTS = "assert primes(10) == [2, 3, 5, 7]\nassert len(primes(100_000)) == 9592\n"

FUNCTIONS: tuple[tuple[str, str, str, float], ...] = (
    (_GCD, _GCD_TESTS, "gcd", 1.0),
    (_WORDS, _WORDS_TESTS, "common", 1.0),
    (_RUNS, _RUNS_TESTS, "encode", 1.0),
    (_MEAN, _MEAN_TESTS, "spread", 1.0),
    (_SIEVE, _SIEVE_TESTS, "primes", 1.0),
    (_GCD.replace("a % b", "b % a"), _GCD_TESTS, "gcd", 0.0),
    (_WORDS.replace("-counts", "counts"), _WORDS_TESTS, "common", 0.0),
    (_RUNS.replace("import re", ""), _RUNS_TESTS, "encode", 0.0),
    (_MEAN.replace("return", "retrun"), _MEAN_TESTS, "spread", 0.0),
    (_SIEVE.replace("primes", "sieve"), _SIEVE_TESTS, "primes", 0.0),
)
"""Program, tests, entry point, reward."""

_SUM = "n = int(input())\nprint(sum(int(input()) for _ in range(n)))\n"
_SUM_CASES = tuple(StdioCase(f"{n}\n" + "\n".join(map(str, range(n))), str(n * (n - 1) // 2)) for n in range(1, 11))
SCRIPTS: tuple[tuple[str, tuple[StdioCase, ...], float], ...] = (
    (_SUM, _SUM_CASES, 1.0),
    (_SUM.replace("range(n)", "range(n - 1)"), _SUM_CASES, 0.0),
)
"""Ten cases each."""


def judge_rounds(mode: SandboxMode, kind: str, rounds: int, warm: Barrier, results: "multiprocessing.Queue") -> None:
    """One judge: how long each round and each verdict took."""
    jobs = (
        [(program, FunctionTests(tests, entry_point), reward) for program, tests, entry_point, reward in FUNCTIONS]
        if kind == "functions"
        else [(program, StdioTests(cases), reward) for program, cases, reward in SCRIPTS]
    )
    seconds: list[float] = []
    round_s: list[float] = []
    with CodeJudge(CodeConfig(sandbox=mode)) as judge:
        for program, tests, _ in jobs:
            judge.judge(program, tests)
        judge.ready()
        warm.wait()
        for _ in range(rounds):
            started = time.perf_counter()
            for program, tests, reward in jobs:
                before = time.perf_counter()
                verdict = judge.judge(program, tests)
                seconds.append(time.perf_counter() - before)
                assert verdict.reward == reward, (program, verdict)
            round_s.append(time.perf_counter() - started)
        results.put((judge.mode.name, len(jobs), round_s, seconds))


def measure(mode: SandboxMode, kind: str, *, judges: int, rounds: int) -> dict:
    """The same work in several processes at once."""
    context = multiprocessing.get_context("spawn")
    warm, results = context.Barrier(judges), context.Queue()
    processes = [context.Process(target=judge_rounds, args=(mode, kind, rounds, warm, results)) for _ in range(judges)]
    for process in processes:
        process.start()
    found = [results.get(timeout=600) for _ in processes]
    for process in processes:
        process.join()
    name, jobs = found[0][0], found[0][1]
    rates = sorted(
        judges * jobs / max(slowest) for slowest in zip(*(rounds_s for _, _, rounds_s, _ in found), strict=True)
    )
    seconds = sorted(value for *_, values in found for value in values)
    return {
        "sandbox": name,
        "judges": judges,
        "programs": jobs,
        "verdicts": len(seconds),
        "verdicts_per_s": {
            "median": round(statistics.median(rates), 1),
            "p10": round(quantile(rates, 0.1), 1),
            "p90": round(quantile(rates, 0.9), 1),
            "rounds": len(rates),
        },
        "verdict_ms": {f"p{share}": round(1e3 * quantile(seconds, share / 100), 1) for share in (50, 90, 99)},
    }


def quantile(ordered: list[float], share: float) -> float:
    """The value below which a share of the values lies, itself one of them."""
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1 if share else 0)]


def run(modes: list[SandboxMode], *, judges: int, rounds: int) -> dict:
    """Every mode and kind of test, one after the other."""
    from tests.bench.parts import machine

    before = machine()
    measured = {
        kind: [measure(mode, kind, judges=judges, rounds=rounds) for mode in modes] for kind in ("functions", "stdio")
    }
    rate = measured["functions"][0]["verdicts_per_s"]["median"]
    return {
        "machine": before,
        **measured,
        "goal": {
            "text": f"at least {GOAL_PER_S:g} function-test verdicts per second with two judges on two cores",
            "met": rate >= GOAL_PER_S if judges == 2 else None,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sandbox", nargs="+", choices=[mode.name for mode in SandboxMode], default=["auto"])
    parser.add_argument("--judges", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--quick", action="store_true", help="one round")
    options = parser.parse_args()
    modes = [SandboxMode[name] for name in options.sandbox]
    print(json.dumps(run(modes, judges=options.judges, rounds=1 if options.quick else options.rounds), indent=1))


if __name__ == "__main__":
    main()
