"""What DelTA's coefficients cost on top of a training step, beside an estimator that runs the model again, as JSON.

    python -m tests.bench.credit_cost                 10^4, 10^5 and 10^6 response tokens, hidden size 1024
    python -m tests.bench.credit_cost --quick         tiny sizes: tries the program, says nothing about speed

Four ways to do the model's work of one step, each in a process of its own, which also tells its peak memory:

    uniform       no credit: the old-policy pass and the update pass (forward and backward of the clipped surrogate)
    row           the same, with row proxies cached in the old-policy pass, and the estimator
    last_layer    the same, with the exact last-layer proxy
    extra_passes  the same, with the 3 + K further forward passes of `extra_passes.py`; its coefficients are row's

What decides the outcome is arranged against us: there is no optimizer step and no generation, every rollout has an
advantage (so every token is cached), and the model has one layer and a small vocabulary. More of any of them makes a
step dearer and leaves the cost of `row` as it is. Only `last_layer` gains from the small vocabulary: its products grow
with it.

Model passes are timed micro-batch by micro-batch on `--max-model-tokens` response tokens at most, spread evenly over
the batch, and scaled to its size: seconds are tokens times the median of seconds per token. What credit does itself,
filling the cache and estimating, is timed in full at every size, on the hidden states of those model passes over and
over. `credit_s` is the median of the repetitions; `credit_first_s` is the first one, for which the system has yet to
hand out the memory of the cache. Where fresh pages are slow, as in a virtual machine, that is most of what it takes.
"""

import argparse
import json
import math
import multiprocessing
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import pairwise

import torch

from tests.bench import credit_variants
from tests.bench.credit_variants import VARIANTS, Measured, Setting, measure

TOLERANCE = 1e-3
"""Of `row` against `extra_passes`, in coefficients of mean 1."""

GOAL_RATIO, GOAL_TOKENS, GOAL_HIDDEN = 1.01, 1e5, 1024
GOAL_EXPONENT = 1.1
"""Credit seconds as a power of the tokens, from one size to the next; 1 is linear, the rest is left to noise."""

QUICK = {
    "sizes": [1_000.0, 10_000.0],
    "hidden": 64,
    "row_length": 64,
    "micro_batch_tokens": 1024,
    "max_model_tokens": 2_000,
    "repeats": 3,
}


def in_own_process(setting: Setting, size: int, variant: str) -> Measured:
    """`measure` in a fresh process, forked from one that has imported everything and computed nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([credit_variants.__name__])
    print(f"{size} tokens, {variant} ...", file=sys.stderr, flush=True)
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(measure, setting, size, variant).result()


def report_size(size: int, found: dict[str, Measured], setting: Setting) -> dict:
    """The numbers of one size, from all variants."""
    from tests.bench.parts import median_and_spread

    tokens, model_tokens = found["uniform"].tokens, found["uniform"].model_tokens
    report: dict = {
        "size": size,
        "response_tokens": tokens,
        "model_tokens_timed": model_tokens,
        "model_seconds": "measured in full" if model_tokens == tokens else f"scaled by {tokens / model_tokens:.3g}",
        "credit_tokens_timed": tokens,
    }
    medians: dict[str, dict[str, float]] = {}
    for variant, measured in found.items():
        model = {name: [value * tokens for value in values] for name, values in measured.per_token_s.items()}
        phases = {**model, **measured.credit_s}
        medians[variant] = {name: statistics.median(values) for name, values in phases.items()}
        report[variant] = {
            "phases": {name: {**median_and_spread(values), "n": len(values)} for name, values in phases.items()},
            "peak_memory_mib": round(measured.peak_bytes / 2**20, 1),
        }
    step_s = sum(medians["uniform"].values())
    report["uniform"]["step_s"] = round(step_s, 4)
    for variant in VARIANTS[1:]:
        own = medians[variant]
        credit_s = own["credit"] if "credit" in own else sum(own.values())
        report[variant] |= {
            "credit_s": round(credit_s, 4),
            "credit_us_per_token": round(1e6 * credit_s / tokens, 4),
            "step_s": round(step_s + credit_s, 4),
            "over_uniform": round(1 + credit_s / step_s, 5),
            "cache_bytes": found[variant].cache_bytes,
        }
        if found[variant].credit_s:
            report[variant]["credit_first_s"] = round(found[variant].credit_s["credit"][0], 4)
    report["coefficients"] = compare(found)
    in_scope = size >= GOAL_TOKENS and setting.hidden >= GOAL_HIDDEN
    report["goal_met"] = report["row"]["over_uniform"] <= GOAL_RATIO if in_scope else None
    return report


def compare(found: dict[str, Measured]) -> dict[str, object]:
    """How far the coefficients of the tokens that went through the model are apart."""
    row, last_layer, reference = (torch.tensor(found[name].coefficients) for name in VARIANTS[1:])
    difference = float((row - reference).abs().max())
    assert difference < TOLERANCE, f"row and extra_passes differ by {difference}: one of the two is wrong"
    return {
        "tokens_compared": len(row),
        "row_to_extra_passes_max_difference": difference,
        "row_deviation": round(float(row.std()), 4),
        "last_layer_to_row_max_difference": round(float((last_layer - row).abs().max()), 4),
    }


def growth(reports: Sequence[dict]) -> dict[str, list[dict]]:
    """Credit seconds as a power of the tokens, from each size to the next; 1 is linear."""
    steps: dict[str, list[dict]] = {variant: [] for variant in VARIANTS[1:]}
    for small, large in pairwise(reports):
        for variant, rows in steps.items():
            seconds = [report[variant]["credit_us_per_token"] * report["response_tokens"] for report in (small, large)]
            exponent = math.log(seconds[1] / seconds[0]) / math.log(large["response_tokens"] / small["response_tokens"])
            rows.append({"from": small["size"], "to": large["size"], "exponent": round(exponent, 3)})
    return steps


def run(setting: Setting, sizes: Sequence[int]) -> dict:
    """The whole measurement, smallest size first."""
    from tests.bench.parts import machine

    before = machine()  # its load average is not yet our own
    reports = [
        report_size(size, {variant: in_own_process(setting, size, variant) for variant in VARIANTS}, setting)
        for size in sorted(sizes)
    ]
    exponents = growth(reports)
    cheap = [report["goal_met"] for report in reports if report["goal_met"] is not None]
    return {
        "machine": before,
        "setting": {
            **asdict(setting),
            "model": "untrained Qwen3, no optimizer, every rollout with an advantage; few layers are the harsh way",
            "model_dtype": str(setting.model_dtype).removeprefix("torch."),
            "forward_passes_of_extra_passes": 3 + setting.refinements,
        },
        "sizes": reports,
        "growth": exponents,
        "goal": {
            "text": f"row costs at most {GOAL_RATIO:.0%} of uniform from {GOAL_TOKENS:.0e} tokens on at hidden size "
            f"{GOAL_HIDDEN} or more, and grows linearly (exponent at most {GOAL_EXPONENT})",
            "cost_met": all(cheap) if cheap else None,
            "growth_met": all(step["exponent"] <= GOAL_EXPONENT for step in exponents["row"]),
        },
    }


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=float, nargs="+", default=[1e4, 1e5, 1e6], help="response tokens, such as 1e5")
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--vocab", dest="vocabulary", type=int, default=512)
    parser.add_argument("--row-length", type=int, default=256, help="prompt and response tokens of a rollout")
    parser.add_argument("--prompt-length", type=int, default=16)
    parser.add_argument("--micro-batch-tokens", type=int, default=4096)
    parser.add_argument("--max-model-tokens", type=int, help="default: 20,000 on a CPU, all of them on a GPU")
    parser.add_argument("--refinements", type=int, default=1, help="K")
    parser.add_argument("--repeats", type=int, default=5, help="of our credit phase, at full size")
    parser.add_argument("--max-credit-s", type=float, default=40.0, help="no repetition starts later than that")
    parser.add_argument("--cache-dtype", choices=["model", "float32", "bfloat16"], default="model")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of a CPU")
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: processor seconds of all threads; with --threads 1, what to look at on a machine that others use",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    if parser.parse_known_args()[0].quick:
        parser.set_defaults(**QUICK)
    options = parser.parse_args()
    if options.max_model_tokens is None and options.device == "cpu":
        options.max_model_tokens = 20_000
    return options


def main() -> None:
    options = vars(parse_options())
    sizes = [int(size) for size in options.pop("sizes")]
    del options["quick"]
    print(json.dumps(run(Setting(**options), sizes), indent=1))


if __name__ == "__main__":
    main()
