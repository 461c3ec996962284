"""Tokens per second of the learner's passes, packed and padded, and the peak memory of its LM head, as JSON.

    python -m tests.bench.learner_passes              a model of 5.5 million parameters, 48 rollouts of skewed lengths
    python -m tests.bench.learner_passes --quick      tiny sizes: tries the program, says nothing about speed
    python -m tests.bench.learner_passes --device cuda --hidden 1024 --layers 16 --dtype bfloat16     prints MFU as well

Passes. The same rollouts, whose lengths are drawn from a log-normal distribution and cut at a limit as those of a
policy that reasons, go through the old-policy pass (forward) and the update (forward and backward) in three layouts:

    packed            rows end to end, as the learner does it
    padded_sorted     rectangles of rows of like length, longest first (learner.packing=false)
    padded            rectangles of rows in batch order, padded to the longest row of the whole batch, as trainers do
                      that keep a batch as one rectangle

All layouts have the same token budget per micro-batch; the one of padded rows counts pads. A repetition takes all
layouts one after the other; ratios are medians of ratios within a repetition.

LM head. What an update asks of it: log-probabilities of `--head-tokens` tokens over a vocabulary of
`--head-vocabulary`, forward and backward, in a process of its own each: `chunked` as the learner does it, `whole` with
all logits at once and torch's fused log-softmax. The peak is what the process took at most, less what it had with the
weights in place. `--head-entropy` asks for entropies as well, for which all logits at once are kept in five tables
instead of three. Where they would not fit into the memory that is free, both take half as many tokens, and half again.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from types import SimpleNamespace

import numpy as np
import psutil
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from delta.data.micro_batch import MicroBatch, pack_rows, pad_rows
from delta.data.partition import RowCost, partition_rows
from delta.types import TrainBatch
from tests.bench.parts import machine, peak_bytes, random_policy, used_bytes
from workers.learner.lm_head import LMHead
from workers.learner.policy import Policy

LAYOUTS = ("packed", "padded_sorted", "padded")

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16 products per second by name of the GPU, from the vendor's data sheets."""

QUICK = {
    "rows": 12,
    "hidden": 64,
    "layers": 1,
    "vocabulary": 128,
    "longest": 128,
    "token_budget": 256,
    "repeats": 2,
    "head_tokens": 256,
    "head_vocabulary": 2000,
    "head_hidden": 32,
}


def make_batch(options: argparse.Namespace) -> TrainBatch:
    """Rollouts of skewed lengths: a median of an eighth of the limit, a few at the limit."""
    generator = np.random.default_rng(options.seed)
    responses = generator.lognormal(np.log(options.longest / 8), 1.0, options.rows).clip(1, options.longest)
    responses = responses.astype(np.int64)
    lengths = responses + options.prompt
    return TrainBatch(
        token_ids=generator.integers(0, options.vocabulary, int(lengths.sum()), dtype=np.int32),
        offsets=np.concatenate([[0], lengths.cumsum()]),
        prompt_lengths=np.full(options.rows, options.prompt),
        rollout_log_probs=np.zeros(int(responses.sum()), dtype=np.float32),
        advantages=np.ones(options.rows, dtype=np.float32),
        loss_mask=np.ones(int(responses.sum()), dtype=np.bool_),
    )


def micro_batches(batch: TrainBatch, layout: str, budget: int, attention_length: float) -> list[MicroBatch]:
    """All rows of the batch in one of the layouts."""
    lengths = batch.row_lengths - 1
    if layout == "padded":
        longest = int(lengths.max())
        size = max(1, budget // longest)
        starts = range(0, batch.rows, size)
        return [widened(pad_rows(batch, range(first, min(first + size, batch.rows))), longest) for first in starts]
    packed = layout == "packed"
    partition = partition_rows(
        lengths,
        updates=1,
        group_size=1,
        ranks=1,
        token_budget=budget,
        packed=packed,
        cost=RowCost(attention_length=attention_length),
    )
    return [(pack_rows if packed else pad_rows)(batch, rows) for rows in partition.micro_batches[0][0]]


def widened(micro_batch: MicroBatch, width: int) -> MicroBatch:
    """The same rows, padded further."""
    before = micro_batch.token_ids.shape[1]
    row, place = micro_batch.predictors // before, micro_batch.predictors % before
    return MicroBatch(
        token_ids=torch.nn.functional.pad(micro_batch.token_ids, (0, width - before)),
        predictors=row * width + place,
        targets=micro_batch.targets,
        row_lengths=micro_batch.row_lengths,
    )


def make_policy(options: argparse.Namespace) -> Policy:
    """An untrained model of the size asked for."""
    torch.manual_seed(options.seed)
    return random_policy(
        hidden=options.hidden,
        layers=options.layers,
        vocabulary=options.vocabulary,
        positions=options.prompt + options.longest,
        device=options.device,
        dtype=getattr(torch, options.dtype),
    )


def old_pass(policy: Policy, parts: Sequence[MicroBatch]) -> None:
    """Forward passes, with entropies."""
    with torch.no_grad():
        for part in parts:
            policy(part, with_entropy=True)


def update(policy: Policy, parts: Sequence[MicroBatch]) -> None:
    """Forward and backward passes."""
    for part in parts:
        policy(part).log_probs.sum().backward()
    policy.zero_grad(set_to_none=True)


def seconds_of(work: object, policy: Policy, parts: Sequence[MicroBatch], device: str) -> float:
    """Wall time of one run over all micro-batches."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work(policy, parts)  # type: ignore[operator]
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def measure_passes(options: argparse.Namespace) -> dict[str, object]:
    """Seconds and tokens per second of both passes in all layouts."""
    torch.set_num_threads(options.threads)
    policy, batch = make_policy(options), make_batch(options)
    layouts = {
        layout: [
            part.to(options.device)
            for part in micro_batches(batch, layout, options.token_budget, policy.attention_length)
        ]
        for layout in LAYOUTS
    }
    tokens = int(batch.row_lengths.sum())
    parameters = sum(parameter.numel() for parameter in policy.parameters())
    seconds: dict[str, dict[str, list[float]]] = {
        work.__name__: {layout: [] for layout in LAYOUTS} for work in (old_pass, update)
    }
    for repeat in range(options.repeats + 1):  # the first one warms up
        for work in (old_pass, update):
            for layout, parts in layouts.items():
                took = seconds_of(work, policy, parts, options.device)
                if repeat:
                    seconds[work.__name__][layout].append(took)
    found: dict[str, object] = {
        "parameters": parameters,
        "tokens": tokens,
        "length": {
            "median": float(np.median(batch.row_lengths)),
            "mean": float(batch.row_lengths.mean()),
            "max": int(batch.row_lengths.max()),
        },
        "computed_tokens": {layout: sum(part.token_ids.numel() for part in parts) for layout, parts in layouts.items()},
        "micro_batches": {layout: len(parts) for layout, parts in layouts.items()},
    }
    peak = next((flops for name, flops in PEAK_FLOPS.items() if options.device == "cuda" and name in gpu_name()), None)
    for name, by_layout in seconds.items():
        for layout, took in by_layout.items():
            median = statistics.median(took)
            entry = {
                "tokens_per_s": tokens / median,
                "seconds_median": median,
                "seconds_min": min(took),
                "seconds_max": max(took),
            }
            if peak:
                # 2 products per parameter and token forward, 4 backward; attention is left out.
                entry["mfu"] = (2 if name == "old_pass" else 6) * parameters * tokens / median / peak
            found[f"{name}/{layout}"] = entry
        for layout in LAYOUTS[1:]:
            ratios = [padded / packed for padded, packed in zip(by_layout[layout], by_layout["packed"], strict=True)]
            found[f"{name}/packed_over_{layout}"] = {
                "median": statistics.median(ratios),
                "min": min(ratios),
                "max": max(ratios),
            }
    return found


def gpu_name() -> str:
    """Of the first one."""
    return torch.cuda.get_device_name(0)


def head_peak_bytes(kind: str, options: argparse.Namespace) -> int:
    """Peak memory of the LM head's forward and backward pass, in this process."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    count, device = options.head_tokens, options.device
    layer = nn.Linear(options.head_hidden, options.head_vocabulary, bias=False).to(
        device=device, dtype=getattr(torch, options.dtype)
    )
    hidden = torch.randn(count, options.head_hidden, device=device, dtype=layer.weight.dtype, requires_grad=True)
    targets = torch.randint(0, options.head_vocabulary, (count,), device=device)
    before = used_bytes(device)
    if kind == "chunked":
        model = SimpleNamespace(get_output_embeddings=lambda: layer)
        head = LMHead.adopt(model, temperature=1.0, chunk_tokens=options.head_chunk)
        log_probs, entropy = head(hidden, targets, options.head_entropy)
    else:
        log_probs, entropy = whole(layer, hidden, targets, options.head_entropy)
    loss = log_probs.sum()
    if entropy is not None:
        loss = loss + 0.01 * entropy.sum()
    loss.backward()
    return peak_bytes(device) - before


def whole(layer: nn.Linear, hidden: Tensor, targets: Tensor, with_entropy: bool) -> tuple[Tensor, Tensor | None]:
    """All logits at once, in as few tables as plain autograd can do with."""
    if not with_entropy:
        return -cross_entropy(layer(hidden).float(), targets, reduction="none"), None
    logits = layer(hidden).float()
    normalizer = logits.logsumexp(dim=-1)
    log_probs = logits.gather(-1, targets[:, None]).squeeze(-1) - normalizer
    return log_probs, normalizer - (torch.softmax(logits, dim=-1) * logits).sum(dim=-1)


def measure_head(options: argparse.Namespace) -> dict[str, object]:
    """Peak memory both ways, each in a fresh process."""
    # Three tables at once, or five, and room for everything else. Fewer tokens where they would not fit.
    all_tables = (6.0 if options.head_entropy else 3.6) * 4 * options.head_vocabulary
    while options.head_tokens > 1 and all_tables * options.head_tokens > psutil.virtual_memory().available:
        options.head_tokens //= 2
    found: dict[str, object] = {"tokens": options.head_tokens}
    for kind in ("chunked", "whole"):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            found[f"{kind}_peak_mib"] = pool.submit(head_peak_bytes, kind, options).result() / 2**20
    found["whole_over_chunked"] = found["whole_peak_mib"] / found["chunked_peak_mib"]  # type: ignore[operator]
    return found


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--longest", type=int, default=1024, help="response tokens at most")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocab", dest="vocabulary", type=int, default=8192)
    parser.add_argument("--token-budget", type=int, default=8192, help="of a micro-batch")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--head-tokens", type=int, default=8192)
    parser.add_argument("--head-vocabulary", type=int, default=151_936)
    parser.add_argument("--head-hidden", type=int, default=256)
    parser.add_argument("--head-chunk", type=int, default=1024)
    parser.add_argument("--head-entropy", action="store_true", help="entropies beside the log-probabilities")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    if parser.parse_known_args()[0].quick:
        parser.set_defaults(**QUICK)
    return parser.parse_args()


def run(options: argparse.Namespace) -> dict[str, object]:
    """Everything, as one record."""
    return {
        "machine": {**machine(), "gpu": gpu_name() if options.device == "cuda" else None},
        "settings": vars(options),
        "passes": measure_passes(options),
        "lm_head": measure_head(options),
    }


if __name__ == "__main__":
    print(json.dumps(run(parse_options()), indent=1))
