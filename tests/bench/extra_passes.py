"""DelTA's estimator as its paper describes it: 3 + K forward passes of its own, nothing kept between them but sums.

The yardstick of `credit_cost.py`. It computes what `delta.credit.estimate_credit` computes over row proxies, for one
rank and without regard for vectors that are not finite, and shares none of its code but the definition of a vector.
Where the real one reads a cache, this one runs the model again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from delta.credit import token_vectors
from delta.data.micro_batch import MicroBatch
from workers.learner.policy import Policy

SIGMA_FLOOR = 1e-4

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A micro-batch, and the advantage (S,) of the rollout of each of its response tokens; none is 0."""

    micro_batch: MicroBatch
    advantages: Tensor


class SideSums:
    """Weighted sums of vectors, and moments of margins, for the sides (+, -); float64."""

    def __init__(self, width: int, device: torch.device) -> None:
        self.vectors = torch.zeros(2, width, dtype=torch.float64, device=device)
        self.weights = torch.zeros(2, dtype=torch.float64, device=device)
        self.moments = torch.zeros(3, 2, dtype=torch.float64, device=device)

    def add_vectors(self, vectors: Tensor, weights: Tensor, positive: Tensor) -> None:
        sides = torch.stack([weights * positive, weights * ~positive])
        self.vectors += (sides @ vectors).double()
        self.weights += sides.double().sum(dim=1)

    def add_margins(self, margins: Tensor, positive: Tensor) -> None:
        members = torch.stack([positive, ~positive]).double()
        powers = torch.stack([torch.ones_like(margins), margins, margins.square()])
        self.moments += powers @ members.T

    @property
    def centroids(self) -> Tensor:
        """(2, H)"""
        return self.vectors / self.weights.unsqueeze(1)

    @property
    def deviations(self) -> Tensor:
        """(2,) population standard deviations of the margins, floored."""
        count, first, second = self.moments
        return (second / count - (first / count).square()).clamp_min(0.0).sqrt().clamp_min(SIGMA_FLOOR)


@torch.no_grad()
def extra_passes(
    policy: Policy, parts: Sequence[Part], *, clock: Clock, refinements: int, lambda_min: float, lambda_max: float
) -> tuple[Tensor, dict[str, list[float]]]:
    """Coefficients (S,) of the tokens of all parts, in order; and of each pass the seconds that each part took."""
    policy.eval()
    seconds: dict[str, list[float]] = {}
    width, device = policy.causal_lm.config.hidden_size, parts[0].advantages.device

    def run(name: str, visit: Callable[[Tensor, Tensor, Tensor], None]) -> None:
        """One forward pass over all parts; `visit` gets vectors (S, H), |A| (S,) and who is on the plus side (S,)."""
        seconds[name] = []
        for part in parts:
            started = clock()
            statistics = policy(part.micro_batch)
            vectors = token_vectors(statistics.hidden, statistics.log_probs).float()
            visit(vectors, part.advantages.abs(), part.advantages > 0)
            seconds[name].append(clock() - started)

    def margins(vectors: Tensor, positive: Tensor) -> Tensor:
        """(S,) float64 under the centroids of the moment."""
        own, other = centroids
        offset = other.square().sum() - own.square().sum()
        margin = 2 * (vectors @ (own - other).float()).double() + offset
        return torch.where(positive, margin, -margin)

    def alpha(margin: Tensor, positive: Tensor) -> Tensor:
        return torch.sigmoid(margin / torch.where(positive, gamma[0], gamma[1]))

    sums = SideSums(width, device)
    run("centroids", sums.add_vectors)
    centroids = sums.centroids

    run("deviation", lambda vectors, _, positive: sums.add_margins(margins(vectors, positive), positive))
    gamma = sums.deviations

    for number in range(refinements):
        refined = SideSums(width, device)

        def refine(vectors: Tensor, weights: Tensor, positive: Tensor, refined: SideSums = refined) -> None:
            margin = margins(vectors, positive)
            refined.add_margins(margin, positive)
            refined.add_vectors(vectors, weights * alpha(margin, positive).float(), positive)

        run(f"refinement_{number + 1}", refine)
        centroids, gamma = refined.centroids, refined.deviations

    found: list[Tensor] = []

    def finish(vectors: Tensor, weights: Tensor, positive: Tensor) -> None:
        del weights
        found.append(lambda_min + (lambda_max - lambda_min) * alpha(margins(vectors, positive), positive))

    run("coefficients", finish)
    raw = torch.cat(found)
    return (raw / raw.mean()).float(), seconds
