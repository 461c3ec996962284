"""How many verdicts on mathematical answers a core gives per second, ours beside plain math-verify, as JSON.

    python -m tests.bench.math_verdicts                1,000 answers, five repetitions
    python -m tests.bench.math_verdicts --quick        60 answers: tries the program, says nothing about speed

The answers are ordinary ones: integers as of GSM8K and answers as of MATH, half each where the shared data folder is
there, otherwise a mix made here. Each reference is answered rightly in three ways and wrongly once, as a group of four
rollouts would. Both judges read the same responses in one process and one thread, and are warm when the clock starts;
ours starts each repetition with nothing remembered. math-verify runs as it is meant to be used, `parse` and `verify`,
its time-outs off, with the reference parsed anew for every answer, as a function of a response and a reference does.
"""

import argparse
import json
import logging
import os
import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from delta.rewards import equivalence, readings, values
from delta.rewards.final_answer import judge_final_answer
from tests.bench.parts import machine

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("DELTA_SHARED_DATA", ROOT.parent / "shared" / "data")) / "math"
WORKING = "We put the terms together and simplify, which takes three steps that need no comment.\n" * 6
RIGHT = [
    "\\[\\boxed{%s}\\]",
    "so the final answer is $\\boxed{%s}$.",
    "therefore $\\boxed{\\displaystyle %s}$",
]
GOAL_PER_S, GOAL_RATIO = 300, 2

Judge = Callable[[str, str], bool]


def references(count: int, draw: random.Random) -> tuple[list[str], str]:
    """Reference answers, half of them plain numbers, and where they come from."""
    gsm8k, mathematics = DATA / "gsm8k_test.jsonl", DATA / "math500_dev.jsonl"
    if gsm8k.exists() and mathematics.exists():
        rows = [
            [str(json.loads(row)["answer"]) for row in path.open(encoding="utf-8")] for path in (gsm8k, mathematics)
        ]
        return [draw.choice(answers) for answers in rows for _ in range(count // 2)], "GSM8K test and MATH-500 dev"
    made = [str(draw.randrange(2, 5000)) for _ in range(count // 2)]
    return made + [made_answer(draw) for _ in range(count // 2)], "made here"


def made_answer(draw: random.Random) -> str:
    """An answer like those of MATH."""
    a, b, c = (draw.randrange(2, 40) for _ in range(3))
    return draw.choice(
        [
            f"\\frac{{{a}}}{{{b}}}",
            f"{a}\\sqrt{{{b}}}",
            f"({a}, -{b})",
            f"x^2 + {a}x - {b}",
            f"\\left( {a}, {a + b} \\right]",
            f"{a}, {b + 40}",
            f"{a} + {b}i",
            f"{a}\\pi",
            f"\\begin{{pmatrix}} {a} \\\\ -{b} \\\\ {c} \\end{{pmatrix}}",
            f"y = {a}x + {b}",
            f"{a}^\\circ",
            f"\\${a}.{b + 10}",
        ]
    )


def wrong(answer: str) -> str:
    """An answer of the same kind: its last number is one more."""
    numbers = list(re.finditer(r"[0-9]+", answer))
    if not numbers:
        return "12"
    last = numbers[-1]
    return answer[: last.start()] + str(int(last[0]) + 1) + answer[last.end() :]


def responses(count: int) -> tuple[list[tuple[str, str]], str]:
    """Pairs of a response and its reference, in groups of four."""
    draw = random.Random(7)
    answers, source = references(count // 4, draw)
    draw.shuffle(answers)
    pairs = []
    for answer in answers:
        bare = answer.strip("$")
        pairs += [(WORKING + rendering % bare, answer) for rendering in RIGHT]
        pairs.append((WORKING + RIGHT[0] % wrong(bare), answer))
    return pairs, source


def ours(response: str, answer: str) -> bool:
    return judge_final_answer(response, answer).reward == 1.0


def plain_math_verify() -> Judge:
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)

    def judge(response: str, answer: str) -> bool:
        gold = parse(f"${answer}$", parsing_timeout=None)
        return bool(verify(gold, parse(response, parsing_timeout=None), timeout_seconds=None))

    return judge


def forget() -> None:
    """Empty what our judge remembers."""
    for cache in (equivalence._gold, readings.read_cached, values.exact_value):
        cache.cache_clear()


def measure(judge: Judge, pairs: Sequence[tuple[str, str]], repeats: int) -> dict:
    """Verdicts per second over repetitions, and how long single verdicts take."""
    rates, durations = [], []
    for repeat in range(repeats + 1):
        forget()
        started = time.perf_counter()
        spent, right = [], 0
        for response, answer in pairs:
            before = time.perf_counter()
            right += judge(response, answer)
            spent.append(time.perf_counter() - before)
        if repeat:  # the first one loads and compiles
            rates.append(len(pairs) / (time.perf_counter() - started))
            durations += spent
        print(f"{judge.__name__}: {repeat}/{repeats}", file=sys.stderr, flush=True)
    durations.sort()
    return {
        "verdicts_per_s": {
            "median": round(statistics.median(rates), 1),
            "lowest": round(min(rates), 1),
            "highest": round(max(rates), 1),
            "n": len(rates),
        },
        "p50_ms": round(1e3 * statistics.median(durations), 4),
        "p99_ms": round(1e3 * durations[int(0.99 * len(durations))], 4),
        "max_ms": round(1e3 * durations[-1], 3),
        "correct": right,
    }


def run(count: int, repeats: int) -> dict[str, object]:
    before = machine()
    pairs, source = responses(count)
    ours_found, theirs = measure(ours, pairs, repeats), measure(plain_math_verify(), pairs, repeats)
    rates = [ours_found["verdicts_per_s"]["median"], theirs["verdicts_per_s"]["median"]]
    return {
        "machine": before,
        "answers": len(pairs),
        "references": source,
        "correct_as_made": 3 * len(pairs) // 4,
        "ours": ours_found,
        "math_verify": theirs,
        "ratio": round(rates[0] / rates[1], 2),
        "goal": {
            "text": f"at least {GOAL_PER_S} verdicts per second and core, and {GOAL_RATIO} times plain math-verify",
            "met": bool(rates[0] >= GOAL_PER_S and rates[0] >= GOAL_RATIO * rates[1]),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few answers")
    if parser.parse_known_args()[0].quick:
        parser.set_defaults(answers=60, repeats=2)
    options = parser.parse_args()
    print(json.dumps(run(options.answers, options.repeats), indent=1))


if __name__ == "__main__":
    main()
