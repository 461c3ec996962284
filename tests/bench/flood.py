"""What a flood of answers costs when one in twenty hangs, through the verifier's own processes, as JSON.

    python -m tests.bench.flood               as many workers as cores, 6,000 math answers and 300 programs
    python -m tests.bench.flood --quick       a few of each: tries the program, says nothing about speed

Every kind is sent once without and once with the hanging ones, the same answers in the same order, all at once. The
rate is that of the answers that do not hang, until 95 % of them have their verdicts, since the few that were taken for
hanging and put back come after all others: `kept` is the second rate over the first. A hanging math answer spins in a
judge of this module, since the ones that would make math-verify hang are refused by their size; a hanging program is an
endless loop. All of them must end in `timeout`, the others never.
"""

import argparse
import itertools
import json
import os
import statistics
import time
from collections.abc import Sequence

from delta.rewards import RewardConfig
from delta.types import FunctionTests, Outcome, PluginAnswer, Sample
from tests.bench.code_verdicts import FUNCTIONS
from tests.bench.parts import machine
from workers.verifier.code import CodeConfig
from workers.verifier.config import PoolConfig, ScoringConfig
from workers.verifier.supervisor import Supervisor

SHARE = 20
"""One answer in so many hangs."""
GOAL_KEPT = 0.8
MATH = [
    ("so it is $\\boxed{%d}$", "%d"),
    ("\\boxed{\\frac{%d}{7}+x^2}", "x^{2} + \\frac{%d}{7}"),
    ("\\boxed{(x+%d)^2}", "x^2 + 2 \\cdot %d x + %d^2"),
    ("The answer is \\boxed{\\sqrt{%d}}", "\\sqrt{%d} \\cdot 1"),
    ("\\boxed{\\sum_{k=1}^{3} k + %d}", "\\sum_{k=1}^{3} k + %d + 1"),
]
"""Responses and references, with a number of their own each time: what is equal is not scored twice."""


def spin(response: str, answer: object) -> float:
    """A judge that never ends, and never gives up the processor."""
    while True:
        pass


def math_answers(count: int) -> list[Sample]:
    shapes = itertools.cycle(MATH)
    made = [(number, *next(shapes)) for number in range(count)]
    return [
        Sample(response % number, answer.replace("%d", str(number)))  # some references hold their number twice
        for number, response, answer in made
    ]


def programs(count: int) -> list[Sample]:
    shapes = itertools.cycle(FUNCTIONS)
    return [
        Sample(f"{source}# {number}\n", FunctionTests(tests, entry_point))
        for number, (source, tests, entry_point, _) in zip(range(count), shapes, strict=False)
    ]


HANGING = {
    "math": Sample("\\boxed{1}", PluginAnswer("tests.bench.flood.spin", "1")),
    "code": Sample("def gcd(a, b):\n    while True:\n        pass\n", FunctionTests("assert gcd(12, 18) == 6", "gcd")),
}


def flood(samples: Sequence[Sample], hanging: Sequence[Sample], *, config: PoolConfig) -> dict[str, float]:
    """Rate of the answers that do not hang, percentiles of their execution, and the time for all."""
    supervisor = Supervisor(ScoringConfig(config, RewardConfig()))
    try:
        supervisor.score(
            [samples[0]] * supervisor.workers * 2
        )  # sandboxes and modules are loaded before the clock starts
        pending = list(samples)
        for place, sample in enumerate(hanging):
            pending.insert((SHARE + 1) * place, sample)
        started = time.perf_counter()
        futures = [supervisor.submit(sample) for sample in pending]
        done_s: list[float] = []
        for sample, future in zip(pending, futures, strict=True):
            if sample not in hanging:
                future.add_done_callback(lambda _: done_s.append(time.perf_counter() - started))
        seconds = []
        for sample, future in zip(pending, futures, strict=True):
            verdict = future.result()
            if sample in hanging:
                assert verdict.outcome is Outcome.timeout, verdict
            else:
                assert verdict.outcome.is_judgement, verdict
                seconds.append(verdict.seconds)
        most = int(0.95 * len(samples))
        return {
            "answers_per_s": most / sorted(done_s)[most - 1],
            "last_s": max(done_s),
            "p50_ms": statistics.median(seconds) * 1e3,
            "p99_ms": sorted(seconds)[int(0.99 * len(seconds))] * 1e3,
            "all_s": time.perf_counter() - started,
            "replaced": supervisor.replaced,
        }
    finally:
        supervisor.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    config = PoolConfig(cpu_share=1.0, timeout_s=1.0, code=CodeConfig(timeout_s=2.0, test_timeout_s=2.0))
    counts = {"math": 100, "code": 20} if options.quick else {"math": 6000, "code": 300}
    found: dict[str, object] = {"machine": machine(), "workers": len(os.sched_getaffinity(0)), "goal_kept": GOAL_KEPT}
    for kind, make in (("math", math_answers), ("code", programs)):
        samples = make(counts[kind])
        hanging = [HANGING[kind]] * 0
        rounds = []
        for _ in range(1 if options.quick else options.rounds):
            clean = flood(samples, hanging, config=config)
            # Each is an object of its own, so that the flood can tell them from the others.
            few = [
                Sample(HANGING[kind].response, HANGING[kind].answer, prompt=str(n))
                for n in range(counts[kind] // SHARE)
            ]
            rounds.append({"clean": clean, "flood": flood(samples, few, config=config)})
        kept = [row["flood"]["answers_per_s"] / row["clean"]["answers_per_s"] for row in rounds]
        found[kind] = {"answers": counts[kind], "hanging": counts[kind] // SHARE, "kept": kept, "rounds": rounds}
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
