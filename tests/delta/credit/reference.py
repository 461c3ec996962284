"""What the credit tests measure against: the equations as Python loops, batches, and ranks that are threads."""

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from delta.collectives import AllReduce
from delta.credit import LastLayerProxy, RowProxy, TokenSpace, token_vectors
from delta.credit.cache import RowCache
from delta.credit.last_layer import Logits
from delta.tokens import OldTokens

Result = TypeVar("Result")
Vector = Sequence[float]
Score = Callable[[list[Vector], list[float], dict[int, Vector]], dict[int, float]]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def squared_distance(a: Vector, b: Vector) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def members(advantages: Sequence[float]) -> dict[int, list[int]]:
    """Who is on the sides +1 and -1."""
    return {sign: [i for i, advantage in enumerate(advantages) if sign * advantage > 0] for sign in (+1, -1)}


def margin(vectors: list[Vector], advantages: list[float], mu: dict[int, Vector]) -> dict[int, float]:
    """Distance to the other centroid less distance to the own one."""
    return {
        i: squared_distance(vectors[i], mu[-sign]) - squared_distance(vectors[i], mu[sign])
        for sign, side in members(advantages).items()
        for i in side
    }


def closeness(vectors: list[Vector], advantages: list[float], mu: dict[int, Vector]) -> dict[int, float]:
    """How much closer to the own centroid than the side is on average."""
    distances = {
        sign: {i: squared_distance(vectors[i], mu[sign]) for i in side} for sign, side in members(advantages).items()
    }
    return {i: sum(side.values()) / len(side) - distance for side in distances.values() for i, distance in side.items()}


def naive_coefficients(
    vectors: Sequence[Vector],
    advantages: Sequence[float],
    *,
    refinements: int = 1,
    lambda_min: float = 0.8,
    lambda_max: float = 1.2,
    temperature: float | None = None,
    score: Score = margin,
) -> list[float]:
    """ALGORITHM.md section 3, word by word: Python floats, explicit squared distances, one token at a time."""
    side = members(advantages)
    if not side[+1] or not side[-1]:
        return [1.0 for _ in advantages]

    def centroid(sign: int, alpha: dict[int, float]) -> list[float]:
        total = sum(abs(advantages[i]) * alpha[i] for i in side[sign])
        width = len(vectors[0])
        return [sum(abs(advantages[i]) * alpha[i] * vectors[i][h] for i in side[sign]) / total for h in range(width)]

    def deviation(scores: dict[int, float], sign: int) -> float:
        if temperature is not None:
            return temperature
        mean = sum(scores[i] for i in side[sign]) / len(side[sign])
        return max(math.sqrt(sum((scores[i] - mean) ** 2 for i in side[sign]) / len(side[sign])), 1e-4)

    def assignment(scores: dict[int, float], gamma: dict[int, float]) -> dict[int, float]:
        return {i: sigmoid(scores[i] / gamma[sign]) for sign in (+1, -1) for i in side[sign]}

    everyone = {i: 1.0 for sign in (+1, -1) for i in side[sign]}
    mu = {sign: centroid(sign, everyone) for sign in (+1, -1)}
    scores = score(vectors, advantages, mu)
    gamma = {sign: deviation(scores, sign) for sign in (+1, -1)}
    for _ in range(refinements):
        alpha = assignment(scores, gamma)
        mu = {sign: centroid(sign, alpha) for sign in (+1, -1)}
        gamma = {sign: deviation(scores, sign) for sign in (+1, -1)}  # of the scores just used
        scores = score(vectors, advantages, mu)
    alpha = assignment(scores, gamma)
    raw = [lambda_min + (lambda_max - lambda_min) * alpha.get(i, 0.0) for i in range(len(advantages))]
    mean = sum(raw) / len(raw)
    return [value / mean for value in raw]


def random_tokens(seed: int, *, tokens: int = 60, hidden: int = 7, neutral: float = 0.2) -> tuple[Tensor, Tensor]:
    """Vectors with a shared part and a part per side, and advantages of uneven size, some 0."""
    generator = torch.Generator().manual_seed(seed)
    advantages = torch.randn(tokens, generator=generator)
    advantages[torch.rand(tokens, generator=generator) < neutral] = 0.0
    vectors = torch.randn(tokens, hidden, generator=generator) + 0.8
    vectors[:, 0] += advantages.sign()
    return vectors, advantages


@dataclass(frozen=True, slots=True)
class HeadBatch:
    """What a model's last layer sees: hidden states, head, sampled tokens, advantages; no neutral token."""

    hidden: Tensor
    """(S, H)"""
    head: Tensor
    """(V, H)"""
    targets: Tensor
    """(S,)"""
    advantages: Tensor
    """(S,)"""
    temperature: float = 1.0
    """Of the logits."""
    asked: list[int] = field(default_factory=list)
    """Rows of every call of `logits`."""

    def logits(self, hidden: Tensor) -> Tensor:
        self.asked.append(len(hidden))
        return hidden.to(self.head.dtype) @ self.head.T / self.temperature

    @property
    def log_probs(self) -> Tensor:
        return torch.log_softmax(self.logits(self.hidden), dim=-1).gather(1, self.targets.unsqueeze(1)).squeeze(1)

    def row_vectors(self) -> Tensor:
        """(S, H) dense vectors of the row proxy, in float64."""
        return token_vectors(self.hidden.double(), self.log_probs.double())

    def head_gradients(self) -> Tensor:
        """(S, V * H) dense vectors of the last-layer proxy, each of them a backward pass in float64."""
        head = self.head.double().requires_grad_()
        log_probs = torch.log_softmax(self.hidden.double() @ head.T / self.temperature, dim=-1)
        rows = [log_probs[i, int(target)] for i, target in enumerate(self.targets)]
        return torch.stack([torch.autograd.grad(row, head, retain_graph=True)[0].flatten() for row in rows])


def head_batch(
    seed: int,
    *,
    tokens: int = 40,
    hidden: int = 5,
    vocabulary: int = 11,
    temperature: float = 1.0,
    dtype: torch.dtype = torch.float64,
) -> HeadBatch:
    """Hidden states with a shared part and a part per side, tokens drawn from the head's own policy."""
    generator = torch.Generator().manual_seed(seed)
    sign = torch.where(torch.rand(tokens, generator=generator) < 0.5, 1.0, -1.0)
    sign[:2] = torch.tensor([1.0, -1.0])[:tokens]
    states = torch.randn(tokens, hidden, generator=generator, dtype=torch.float64) + 0.5
    states[:, 0] += sign
    head = torch.randn(vocabulary, hidden, generator=generator, dtype=torch.float64)
    probabilities = torch.softmax(states @ head.T / temperature, dim=-1)
    targets = torch.multinomial(probabilities, 1, generator=generator).squeeze(1)
    advantages = sign * (torch.rand(tokens, generator=generator) + 0.05)
    return HeadBatch(states.to(dtype), head.to(dtype), targets, advantages, temperature)


def fill(space: TokenSpace, batch: HeadBatch, *, places: Tensor | None = None, sizes: Sequence[int] = ()) -> TokenSpace:
    """Append the tokens at `places`, or all, in micro-batches of these sizes and one more with the rest."""
    places = torch.arange(len(batch.targets)) if places is None else places
    sizes = [*sizes, len(places) - sum(sizes)]
    log_probs = batch.log_probs
    for part in places.split(sizes):
        space.append(batch.hidden[part], log_probs[part], batch.targets[part], batch.advantages[part])
    return space


SPACES: dict[str, Callable[[Logits, RowCache], TokenSpace]] = {
    "row": lambda logits, cache: RowProxy(cache),
    "last_layer": lambda logits, cache: LastLayerProxy(logits, cache),
}


def make_old_tokens(
    lengths: Sequence[int], *, advantages: Sequence[float] | None = None, first_place: int = 0, **columns: Tensor
) -> OldTokens:
    """Rows of these lengths; the other columns are filled in."""
    rows = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths, dtype=torch.int64))
    count = len(rows)
    filled = {
        "places": torch.arange(first_place, first_place + count),
        "advantages": (torch.ones(len(lengths)) if advantages is None else torch.tensor(advantages))[rows],
        "loss_mask": torch.ones(count, dtype=torch.bool),
        "rollout_log_probs": torch.full((count,), -0.5),
        "log_probs": torch.full((count,), -0.5),
        "entropy": torch.ones(count),
    }
    return OldTokens(rows, **{**filled, **columns})


def on_ranks(ranks: int, run: Callable[[int, AllReduce], Result]) -> tuple[list[Result], list[list[tuple[int, ...]]]]:
    """Run every rank in a thread of its own with an all-reduce over them, which writes into its argument.

    Returns:
        What each rank returned, and the shapes that it reduced.
    """
    barrier = threading.Barrier(ranks, timeout=60)
    slots: list[Tensor] = [torch.empty(0)] * ranks
    shapes: list[list[tuple[int, ...]]] = [[] for _ in range(ranks)]

    def one(rank: int) -> Result:
        def all_reduce(tensor: Tensor) -> Tensor:
            slots[rank] = tensor.clone()
            shapes[rank].append(tuple(tensor.shape))
            barrier.wait()
            total = torch.stack(slots).sum(dim=0)
            barrier.wait()
            return tensor.copy_(total)

        try:
            return run(rank, all_reduce)
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(one, range(ranks))), shapes
