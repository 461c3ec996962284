"""DelTA: a coefficient per token, large where its gradient tells right answers from wrong ones.

arXiv:2605.21467. What is here is the estimator; the vectors live in a `TokenSpace`. Nothing here knows of ranks or
micro-batches: the coefficients depend on the batch through sums over it, which go through `all_reduce`, so any split of
the tokens gives the same coefficients.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from delta.collectives import AllReduce, alone
from delta.credit.cache import RowCache
from delta.credit.estimator import Credit, CreditConfig, CreditInputs
from delta.credit.last_layer import LastLayerProxy, Logits
from delta.credit.proxy import RowProxy
from delta.credit.space import TokenSpace, side_weights
from delta.shapes import check_shape
from delta.tokens import OldTokens

SIGMA_FLOOR = 1e-4
"""Lower bound of a side's temperature: margins that do not vary would otherwise divide by zero."""

GIB = 2**30


class Proxy(Enum):
    """What stands for a token's gradient: its own row of the LM head's (`row`), or all of that (`last_layer`)."""

    row = "row"
    last_layer = "last_layer"


class CacheDtype(Enum):
    """Precision of the cached vectors: the model's own (`model`), or a given one."""

    model = "model"
    bfloat16 = "bfloat16"
    float32 = "float32"


@dataclass(kw_only=True, slots=True)
class DiscriminativeConfig(CreditConfig):
    """DelTA coefficients (`credit=discriminative`)."""

    proxy: Proxy = Proxy.row
    """What stands for a token's gradient: `row` as in the paper; `last_layer`, exact, costs LM-head-sized products."""
    refinements: int = 1
    """K, rounds that pull each centroid towards the tokens typical of its side; the paper's best is 1."""
    lambda_min: float = 0.8
    """Coefficient of a token that both sides share, before normalisation."""
    lambda_max: float = 1.2
    """Coefficient of a token that only its own side has, before normalisation."""
    temperature: float | None = None
    """One temperature for both sides instead of the deviation of each side's margins (an ablation)."""
    cache_dtype: CacheDtype = CacheDtype.model
    """Of the vectors kept from the old-policy pass."""
    device_cache_gib: float = 16.0
    """Vectors beyond this size wait in pinned host memory; of no effect without a GPU."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.refinements < 0:
            raise ValueError(f"credit.refinements={self.refinements}: expected 0 or more rounds; the paper uses 1.")
        if not 0 < self.lambda_min <= self.lambda_max:
            raise ValueError(
                f"credit.lambda_min={self.lambda_min}, credit.lambda_max={self.lambda_max}: expected "
                "0 < lambda_min <= lambda_max; the paper uses 0.8 and 1.2."
            )
        if self.temperature is not None and not self.temperature > 0:
            raise ValueError(
                f"credit.temperature={self.temperature}: expected more than 0, or null for the margins' deviation."
            )
        if not 0 <= self.device_cache_gib < float("inf"):
            raise ValueError(f"credit.device_cache_gib={self.device_cache_gib}: expected 0 or more, finite.")

    def new_space(self, logits: Logits) -> TokenSpace:
        """A cache for the vectors of one batch."""
        cache = RowCache(
            dtype=None if self.cache_dtype is CacheDtype.model else getattr(torch, self.cache_dtype.value),
            device_budget_bytes=int(self.device_cache_gib * GIB),
        )
        return LastLayerProxy(logits, cache) if self.proxy is Proxy.last_layer else RowProxy(cache)

    def estimate(self, inputs: CreditInputs) -> Credit:
        """The estimator over the global batch."""
        return self.estimate_with(two_sided_margins, inputs)

    def estimate_with(self, margins: "Margins", inputs: CreditInputs) -> Credit:
        """The estimator with another score in place of the margin, for ablations."""
        assert inputs.space is not None, "filled in the old-policy pass"
        tokens = inputs.tokens
        found = estimate_credit(
            inputs.space,
            neutral_tokens=int((tokens.loss_mask & ~tokens.sided).sum()),
            refinements=self.refinements,
            lambda_min=self.lambda_min,
            lambda_max=self.lambda_max,
            temperature=self.temperature,
            margins=margins,
            all_reduce=inputs.all_reduce,
        )
        return Credit(
            spread(found, tokens),
            {
                "credit/degenerate": float(found.degenerate),
                "credit/temperature_positive": found.temperatures[0],
                "credit/temperature_negative": found.temperatures[1],
                "credit/lambda_positive": found.side_means[0],
                "credit/lambda_negative": found.side_means[1],
                "credit/unusable_tokens": float(found.unusable_tokens),
            },
        )


@dataclass(frozen=True, slots=True)
class SidedCredit:
    """Coefficients of this rank's side-carrying tokens, normalised over the loss-mask tokens of the global batch."""

    coefficients: Tensor
    """(S,) float32, of the tokens that carry a side."""
    neutral_coefficient: float
    """Shared by all tokens whose rollout has advantage 0."""
    degenerate: bool
    """One side was empty, so there was nothing to discriminate and every coefficient is 1."""
    temperatures: tuple[float, float]
    """gamma of the sides (+, -)."""
    unusable_tokens: int
    """Tokens of the global batch whose vector was not finite; they count as neutral."""
    side_means: tuple[float, float] = (1.0, 1.0)
    """Mean coefficient of the sides (+, -) in the global batch; far apart, credit weights sides rather than
    tokens."""


@dataclass(frozen=True, slots=True)
class Sides:
    """Who is on which side, on this rank and in the global batch."""

    positive: Tensor
    """(S,) bool; the others are on the minus side."""
    members: Tensor
    """(2, S) float64, 1 where a usable token is on a side (+, -)."""
    counts: Tensor
    """(2,) usable tokens of the sides in the global batch."""
    all_reduce: AllReduce

    def mean(self, values: Tensor) -> Tensor:
        """(2,) means of (S,) values over the sides of the global batch, each token once."""
        return self.all_reduce(self.members @ values) / self.counts

    def deviation(self, values: Tensor) -> Tensor:
        """(2,) population standard deviations, floored."""
        deviations = values - self.of(self.mean(values))
        return self.mean(deviations.square()).sqrt().clamp_min(SIGMA_FLOOR)

    def of(self, pair: Tensor) -> Tensor:
        """Spread the (2,) values of the sides over the tokens: (S,)."""
        return torch.where(self.positive, pair[0], pair[1])


Margins = Callable[[TokenSpace, Tensor, Sides], Tensor]
"""Space, centroids (2, ...) and sides to (S,) scores: how much of its own side a token is."""


def discriminative_coefficients(
    token_vectors: Tensor,
    advantages: Tensor,
    *,
    refinements: int = 1,
    lambda_min: float = 0.8,
    lambda_max: float = 1.2,
) -> Tensor:
    """Weight each token by how well its gradient tells right answers from wrong ones (DelTA, arXiv:2605.21467).

        mu(+/-)  = sum |A| v / sum |A|                        one centroid per side, side + where A > 0
        m        = |v - mu_other|^2 - |v - mu_own|^2          margin, linear in v
        gamma    = std of m over the side                     temperature
        K times:   alpha = sigmoid(m / gamma);  mu = sum |A| alpha v / sum |A| alpha
        lambda   = lambda_min + (lambda_max - lambda_min) sigmoid(m / gamma),  then divided by its mean

    Args:
        token_vectors: (S, H) proxies of the token gradients, loss-mask tokens only (see `token_vectors`).
        advantages: (S,) advantage of the rollout that each token belongs to.
        refinements: K, rounds of centroid refinement.
        lambda_min: Coefficient of a token shared by both sides; also of tokens whose advantage is 0 and of tokens whose
            vector is not finite.
        lambda_max: Coefficient of a token that only its side has.

    Returns:
        (S,) float32 coefficients with mean 1; all ones when one side has no token.

    Raises:
        ValueError: The shapes do not fit.
    """
    check_shape(token_vectors, "S H")
    check_shape(advantages, "S", S=token_vectors.shape[0])
    sided = advantages != 0
    space = RowProxy()
    space.append_vectors(token_vectors[sided], advantages[sided])
    credit = estimate_credit(
        space,
        neutral_tokens=int((~sided).sum()),
        refinements=refinements,
        lambda_min=lambda_min,
        lambda_max=lambda_max,
    )
    coefficients = torch.full_like(advantages, credit.neutral_coefficient, dtype=torch.float32)
    coefficients[sided] = credit.coefficients
    return coefficients


@torch.no_grad()
def estimate_credit(
    space: TokenSpace,
    *,
    neutral_tokens: int,
    refinements: int = 1,
    lambda_min: float = 0.8,
    lambda_max: float = 1.2,
    temperature: float | None = None,
    margins: Margins | None = None,
    all_reduce: AllReduce = alone,
) -> SidedCredit:
    """The estimator over this rank's share of the tokens that carry a side.

    Tokens of rollouts without advantage are only counted: their vectors are never needed, hence never cached. What is
    of the size of a token or a vector is float64; the products with the vectors are float32 or better.

    Args:
        space: This rank's vectors; swept over 2 K + 1 times.
        neutral_tokens: This rank's loss-mask tokens with advantage 0.
        refinements: K.
        lambda_min: See `discriminative_coefficients`.
        lambda_max: See `discriminative_coefficients`.
        temperature: See `DiscriminativeConfig`.
        margins: The score of a token; `two_sided_margins` by default.
        all_reduce: Sums over the ranks; K + 1 times a pair of vectors, and a few numbers else.

    Returns:
        The coefficients of this rank's tokens, normalised over the global batch.
    """
    margins = margins or two_sided_margins
    positive = space.advantages > 0
    weights = space.advantages.abs() * space.usable
    members = side_weights(space.usable.double(), positive)
    unusable = (~space.usable).sum()
    counts = all_reduce(torch.stack([*members.sum(dim=1), unusable + neutral_tokens, unusable]).double())
    if counts[0] == 0 or counts[1] == 0:
        ones = torch.ones(len(positive), dtype=torch.float32, device=positive.device)
        return SidedCredit(ones, 1.0, True, (0.0, 0.0), int(counts[3]))

    sides = Sides(positive, members, counts[:2], all_reduce)
    centroids = _centroids(space.advantage_sums(), weights, sides)
    scores = margins(space, centroids, sides)
    gamma = sides.deviation(scores) if temperature is None else scores.new_full((2,), temperature)
    for _ in range(refinements):
        refined = weights * torch.sigmoid(scores / sides.of(gamma))
        centroids = _centroids(space.sums(refined), refined, sides)
        # The next use takes the deviation of the scores just used: the temperature lags the centroids by one round.
        if temperature is None:
            gamma = sides.deviation(scores)
        scores = margins(space, centroids, sides)
    alpha = torch.sigmoid(scores / sides.of(gamma)) * space.usable
    raw = lambda_min + (lambda_max - lambda_min) * alpha

    total = all_reduce((raw * space.usable).sum().reshape(1)) + lambda_min * counts[2]
    mean = (total / counts[:3].sum()).item()
    side_means = (sides.mean(raw) / mean).tolist()
    return SidedCredit(
        (raw / mean).float(),
        lambda_min / mean,
        False,
        (gamma[0].item(), gamma[1].item()),
        int(counts[3]),
        (side_means[0], side_means[1]),
    )


def two_sided_margins(space: TokenSpace, centroids: Tensor, sides: Sides) -> Tensor:
    """(S,) |v - mu_other|^2 - |v - mu_own|^2, as the linear function of v that it is."""
    norms = torch.linalg.vector_norm(centroids.flatten(1), dim=1, dtype=torch.float64).square()
    margin = 2 * space.project(centroids[0] - centroids[1]) + norms[1] - norms[0]
    return torch.where(sides.positive, margin, -margin)


def spread(credit: SidedCredit, tokens: OldTokens) -> Tensor:
    """(S,) coefficients of all tokens: those of the sided ones, the neutral one, and 0 off the loss mask."""
    coefficients = tokens.loss_mask.float() * credit.neutral_coefficient
    coefficients[tokens.sided] = credit.coefficients
    return coefficients


def _centroids(sums: Tensor, weights: Tensor, sides: Sides) -> Tensor:
    """(2, ...) weighted means of the two sides over the global batch."""
    totals = sides.all_reduce(side_weights(weights, sides.positive).sum(dim=1))
    sums = sides.all_reduce(sums)
    return sums / totals.to(sums.dtype).view(2, *[1] * (sums.dim() - 1))
