"""The four ways to do the model's work of a training step that `credit_cost.py` compares; one call measures one.

Each call makes its own model and batch from the same seed, so all of them do the same work, and is meant for a process
of its own: that is how peak memory is told apart.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from delta.advantages import group_advantages
from delta.aggregations.aggregation import MiniBatch
from delta.aggregations.token_mean import TokenMeanConfig
from delta.credit import LastLayerProxy, RowProxy, TokenSpace, estimate_credit
from delta.credit.cache import RowCache
from delta.data.micro_batch import pad_rows, row_index
from delta.losses import weighted_sum
from delta.surrogates.clipped import clipped_surrogate
from delta.types import TrainBatch
from tests.bench.extra_passes import Part, extra_passes
from tests.bench.parts import peak_bytes, random_policy, used_bytes
from workers.learner.policy import TokenStatistics

Result = TypeVar("Result")

VARIANTS = ("uniform", "row", "last_layer", "extra_passes")
GROUP = 8
LAMBDA_MIN, LAMBDA_MAX = 0.8, 1.2
MIN_SAMPLES = 5
"""Timings of a model pass at least: few micro-batches are gone over more than once."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What all variants of a run have in common."""

    hidden: int
    layers: int
    vocabulary: int
    row_length: int
    prompt_length: int
    micro_batch_tokens: int
    device: str
    cache_dtype: str
    refinements: int
    repeats: int
    max_model_tokens: int | None
    max_credit_s: float
    threads: int
    clock: str
    seed: int

    @property
    def model_dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.device == "cuda" else torch.float32


@dataclass(slots=True)
class Measured:
    """What the process of one variant found at one size."""

    tokens: int
    model_tokens: int
    """Response tokens that model passes were timed on."""
    per_token_s: dict[str, list[float]] = field(default_factory=dict)
    """By model pass; of each micro-batch, seconds per response token."""
    credit_s: dict[str, list[float]] = field(default_factory=dict)
    """By phase of our own credit; of each repetition, at full size."""
    coefficients: list[float] = field(default_factory=list)
    """Of the tokens that went through the model."""
    cache_bytes: int = 0
    peak_bytes: int = 0
    """Peak memory above that of the idle model."""


class Bench:
    """One variant at one size: a model, a batch, a clock and a memory meter."""

    def __init__(self, setting: Setting, size: int) -> None:
        torch.set_num_threads(setting.threads)
        torch.manual_seed(setting.seed)
        self.setting = setting
        self.device = torch.device(setting.device)
        self.policy = random_policy(
            hidden=setting.hidden,
            layers=setting.layers,
            vocabulary=setting.vocabulary,
            positions=max(2048, setting.row_length),
            device=setting.device,
            dtype=setting.model_dtype,
        )
        self.batch = make_batch(setting, size)
        rows = max(1, setting.micro_batch_tokens // setting.row_length)
        everything = [range(first, min(first + rows, self.batch.rows)) for first in range(0, self.batch.rows, rows)]
        allowed = math.inf if setting.max_model_tokens is None else setting.max_model_tokens
        count = int(min(len(everything), max(1, allowed // int(self.batch.response_lengths[:rows].sum()))))
        self.parts = [self._part(everything[place * len(everything) // count]) for place in range(count)]
        self.rounds = math.ceil(MIN_SAMPLES / count)
        self.tokens = int(self.batch.response_lengths.sum())
        self.found = Measured(self.tokens, sum(len(part.advantages) for part in self.parts))
        self._idle_bytes = used_bytes(setting.device)
        self._own_bytes = 0
        self.update(self.parts[0], self.old_pass(self.parts[0]).log_probs, None)  # compiles, and fills allocators

    def clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.process_time() if self.setting.clock == "cpu" else time.perf_counter()

    @torch.no_grad()
    def old_pass(self, part: Part) -> TokenStatistics:
        self.policy.eval()
        return self.policy(part.micro_batch)

    def update(self, part: Part, old_log_probs: Tensor, coefficients: Tensor | None) -> None:
        """Forward and backward; gradients add up, and no optimizer reads them."""
        self.policy.train()
        log_probs = self.policy(part.micro_batch).log_probs
        terms = clipped_surrogate(
            log_probs, old_log_probs, part.advantages, epsilon_low=0.2, epsilon_high=0.28, dual_clip=10.0
        )
        weights = TokenMeanConfig().weights(
            torch.ones_like(part.advantages), MiniBatch(tokens=self.tokens, rows=self.batch.rows)
        )
        (-weighted_sum(terms.objective, weights, coefficients)).backward()

    def timed(self, name: str, part: Part, work: Callable[[], Result]) -> Result:
        """Do the work on a part, and note how long it took."""
        started = self.clock()
        result = work()
        self.note(name, part, self.clock() - started)
        return result

    def note(self, name: str, part: Part, seconds: float) -> None:
        self.found.per_token_s.setdefault(name, []).append(seconds / len(part.advantages))

    def hold(self, own: Sequence[Tensor]) -> None:
        """Leave these tensors, which only the bench keeps, out of the peak."""
        self._own_bytes += sum(tensor.numel() * tensor.element_size() for tensor in own)

    def finish(self) -> Measured:
        self.found.peak_bytes = peak_bytes(self.setting.device) - self._idle_bytes - self._own_bytes
        return self.found

    def _part(self, rows: Sequence[int]) -> Part:
        advantages = torch.from_numpy(self.batch.advantages[list(rows)])[torch.from_numpy(row_index(self.batch, rows))]
        return Part(pad_rows(self.batch, rows).to(self.device), advantages.to(self.device))


def make_batch(setting: Setting, size: int) -> TrainBatch:
    """Groups of rollouts of random tokens, about `size` response tokens; in each group some are right, some wrong."""
    response = setting.row_length - setting.prompt_length
    groups = max(1, round(size / response / GROUP))
    rows = groups * GROUP
    generator = np.random.default_rng(setting.seed)
    right = generator.integers(1, GROUP, size=(groups, 1))
    rewards = torch.from_numpy((generator.random((groups, GROUP)).argsort(axis=1) < right).astype(np.float32))
    advantages = group_advantages(rewards, torch.ones_like(rewards, dtype=torch.bool), normalize_std=True)
    return TrainBatch(
        token_ids=generator.integers(0, setting.vocabulary, size=rows * setting.row_length, dtype=np.int32),
        offsets=np.arange(rows + 1, dtype=np.int64) * setting.row_length,
        prompt_lengths=np.full(rows, setting.prompt_length, dtype=np.int64),
        rollout_log_probs=np.zeros(rows * response, dtype=np.float32),
        advantages=advantages.flatten().numpy(),
        loss_mask=np.ones(rows * response, dtype=np.bool_),
    )


def measure(setting: Setting, size: int, variant: str) -> Measured:
    """One variant at one size; meant for a process of its own."""
    bench = Bench(setting, size)
    if variant == "uniform":
        return measure_uniform(bench)
    return measure_extra_passes(bench) if variant == "extra_passes" else measure_ours(bench, variant)


def old_log_probs(bench: Bench, part: Part) -> Tensor:
    """Without the hidden states, which nobody keeps where there is no credit."""
    return bench.old_pass(part).log_probs


def measure_uniform(bench: Bench) -> Measured:
    for _ in range(bench.rounds):
        old = [bench.timed("old_pass", part, partial(old_log_probs, bench, part)) for part in bench.parts]
        for part, log_probs in zip(bench.parts, old, strict=True):
            bench.timed("update", part, partial(bench.update, part, log_probs, None))
    return bench.finish()


def measure_extra_passes(bench: Bench) -> Measured:
    setting = bench.setting
    for _ in range(bench.rounds):
        coefficients, seconds = extra_passes(
            bench.policy,
            bench.parts,
            clock=bench.clock,
            refinements=setting.refinements,
            lambda_min=LAMBDA_MIN,
            lambda_max=LAMBDA_MAX,
        )
        for name, values in seconds.items():
            for part, value in zip(bench.parts, values, strict=True):
                bench.note(name, part, value)
    bench.found.coefficients = coefficients.tolist()
    first = bench.parts[0]
    bench.update(first, bench.old_pass(first).log_probs, coefficients[: len(first.advantages)])
    return bench.finish()


def measure_ours(bench: Bench, variant: str) -> Measured:
    """The cache filled in the old-policy pass for what goes through the model, then the whole size, repeatedly."""
    for _ in range(bench.rounds):
        space, _ = new_space(bench, variant)
        states = []
        for part in bench.parts:
            states.append((part, bench.old_pass(part)))
            bench.timed("fill_in_old_pass", part, partial(fill, space, states[-1][1], part))
    bench.hold([old.hidden for _, old in states])
    coefficients = estimate(bench, space)
    bench.found.coefficients = coefficients.tolist()
    del space

    repeats: list[tuple[float, float]] = []
    while len(repeats) < bench.setting.repeats and sum(map(sum, repeats)) < bench.setting.max_credit_s:
        repeats.append(credit_at_full_size(bench, variant, states))
    fills, estimates = map(list, zip(*repeats, strict=True))
    bench.found.credit_s = {"fill": fills, "estimate": estimates, "credit": [sum(pair) for pair in repeats]}

    first, old = states[0]
    bench.update(first, old.log_probs, coefficients[: len(first.advantages)])
    return bench.finish()


def credit_at_full_size(
    bench: Bench, variant: str, states: Sequence[tuple[Part, TokenStatistics]]
) -> tuple[float, float]:
    """Seconds to fill the cache, with the given states over and over, and to estimate."""
    started = bench.clock()
    space, cache = new_space(bench, variant)
    left, place = bench.tokens, 0
    while left:
        part, old = states[place % len(states)]
        fill(space, old, part, count=left)
        left -= min(left, len(part.advantages))
        place += 1
    filled = bench.clock()
    estimate(bench, space)
    ended = bench.clock()
    stored = cache_dtype(bench.setting) or bench.setting.model_dtype
    bench.found.cache_bytes = len(cache) * bench.setting.hidden * stored.itemsize
    return filled - started, ended - filled


def cache_dtype(setting: Setting) -> torch.dtype | None:
    """None for the model's own."""
    return None if setting.cache_dtype == "model" else getattr(torch, setting.cache_dtype)


def new_space(bench: Bench, variant: str) -> tuple[TokenSpace, RowCache]:
    cache = RowCache(dtype=cache_dtype(bench.setting))
    return (LastLayerProxy(bench.policy.logits, cache) if variant == "last_layer" else RowProxy(cache)), cache


@torch.no_grad()
def fill(space: TokenSpace, old: TokenStatistics, part: Part, *, count: int | None = None) -> None:
    """What the old-policy pass does for credit: select the tokens that carry a side, and put them into the cache."""
    sided = part.advantages != 0
    if count is not None:
        sided[count:] = False
    space.append(old.hidden[sided], old.log_probs[sided], part.micro_batch.targets[sided], part.advantages[sided])


def estimate(bench: Bench, space: TokenSpace) -> Tensor:
    return estimate_credit(
        space,
        neutral_tokens=0,
        refinements=bench.setting.refinements,
        lambda_min=LAMBDA_MIN,
        lambda_max=LAMBDA_MAX,
    ).coefficients
