"""DelTA: a coefficient per token, large where its gradient tells right answers from wrong ones.

arXiv:2605.21467. What is here is the estimator on token vectors; where the vectors come from is `proxy.py`. Nothing
here knows of ranks or micro-batches: sums over the global batch go through `all_reduce`, and since the coefficients
depend on the batch through those sums alone, any split of the tokens gives the same coefficients.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from delta.shapes import check_shape

SIGMA_FLOOR = 1e-4
"""Lower bound of a side's temperature: margins that do not vary would otherwise divide by zero."""

CHUNK = 8_192
"""Token vectors accumulated at a time: bounds the temporaries in accumulation precision."""

AllReduce = Callable[[Tensor], Tensor]
"""Sums a small tensor over all ranks and returns it; the identity when there is one."""


@dataclass(kw_only=True, slots=True)
class DiscriminativeConfig:
    """DelTA coefficients (`credit=discriminative`)."""

    refinements: int = 1
    """K, rounds that pull each centroid towards the tokens typical of its side; the paper's best is 1."""
    lambda_min: float = 0.8
    """Coefficient of a token that both sides share, before normalisation."""
    lambda_max: float = 1.2
    """Coefficient of a token that only its own side has, before normalisation."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.refinements < 0:
            raise ValueError(f"credit.refinements={self.refinements}: expected 0 or more rounds; the paper uses 1.")
        if not 0 < self.lambda_min <= self.lambda_max:
            raise ValueError(
                f"credit.lambda_min={self.lambda_min}, credit.lambda_max={self.lambda_max}: expected "
                "0 < lambda_min <= lambda_max; the paper uses 0.8 and 1.2."
            )


@dataclass(frozen=True, slots=True)
class Credit:
    """Coefficients of this rank's tokens, normalised to mean 1 over the loss-mask tokens of the global batch."""

    coefficients: Tensor
    """(S,) float32, of the tokens that carry a side."""
    neutral_coefficient: float
    """Shared by all tokens whose rollout has advantage 0."""
    degenerate: bool
    """One side was empty, so there was nothing to discriminate and every coefficient is 1."""
    temperatures: tuple[float, float]
    """gamma of the sides (+, -)."""


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
        lambda_min: Coefficient of a token shared by both sides; also of tokens whose advantage is 0.
        lambda_max: Coefficient of a token that only its side has.

    Returns:
        (S,) float32 coefficients with mean 1; all ones when one side has no token.

    Raises:
        ValueError: The shapes do not fit.
    """
    check_shape(token_vectors, "S H")
    check_shape(advantages, "S", S=token_vectors.shape[0])
    sided = advantages != 0
    credit = estimate_credit(
        token_vectors[sided],
        advantages[sided],
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
    token_vectors: Tensor,
    advantages: Tensor,
    *,
    neutral_tokens: int,
    refinements: int,
    lambda_min: float,
    lambda_max: float,
    all_reduce: AllReduce = lambda tensor: tensor,
) -> Credit:
    """The estimator over this rank's share of the tokens that carry a side.

    Tokens of rollouts without advantage are only counted: their vectors are never needed, hence never cached.

    Args:
        token_vectors: (S, H) this rank's proxies, any float dtype; read 2 K + 2 times, never copied whole.
        advantages: (S,) none of them 0.
        neutral_tokens: This rank's loss-mask tokens with advantage 0.
        refinements: K.
        lambda_min: See `discriminative_coefficients`.
        lambda_max: See `discriminative_coefficients`.
        all_reduce: Sums over the ranks; called 3 K + 5 times with at most 2 (H + 1) numbers.

    Returns:
        The coefficients of this rank's tokens, normalised over the global batch.
    """
    # Float64 costs nothing next to the forward pass on a CPU; GPUs pay dearly for it, so they accumulate in float32.
    precision = torch.float64 if token_vectors.device.type == "cpu" else torch.float32
    positive = advantages > 0
    weights = advantages.abs().to(precision)

    counts = torch.stack([positive.sum(), (~positive).sum(), torch.as_tensor(neutral_tokens, device=positive.device)])
    counts = all_reduce(counts.to(precision))
    if counts[0] == 0 or counts[1] == 0:
        ones = torch.ones(len(advantages), dtype=torch.float32, device=advantages.device)
        return Credit(ones, 1.0, degenerate=True, temperatures=(0.0, 0.0))

    centroids = _centroids(token_vectors, weights, positive, all_reduce)
    margins = _margins(token_vectors, positive, centroids)
    temperatures = _deviations(margins, positive, counts[:2], all_reduce)
    for _ in range(refinements):
        alpha = torch.sigmoid(margins / _of_side(temperatures, positive))
        centroids = _centroids(token_vectors, weights * alpha, positive, all_reduce)
        # The next use takes the deviation of the margins just used: the temperature lags the centroids by one round.
        temperatures = _deviations(margins, positive, counts[:2], all_reduce)
        margins = _margins(token_vectors, positive, centroids)
    alpha = torch.sigmoid(margins / _of_side(temperatures, positive))
    raw = lambda_min + (lambda_max - lambda_min) * alpha

    total = all_reduce(raw.sum().reshape(1)) + lambda_min * counts[2]
    mean = (total / counts.sum()).item()
    return Credit(
        (raw / mean).float(),
        lambda_min / mean,
        degenerate=False,
        temperatures=(temperatures[0].item(), temperatures[1].item()),
    )


def _of_side(pair: Tensor, positive: Tensor) -> Tensor:
    """Spread the (2,) values of the sides (+, -) over the tokens: (S,)."""
    return torch.where(positive, pair[0], pair[1])


def _centroids(token_vectors: Tensor, weights: Tensor, positive: Tensor, all_reduce: AllReduce) -> Tensor:
    """(2, H) weighted means of the two sides over the global batch."""
    side_weights = torch.stack([weights * positive, weights * ~positive])  # (2, S)
    sums = weights.new_zeros(2, token_vectors.shape[1] + 1)
    for start in range(0, len(weights), CHUNK):
        part = slice(start, start + CHUNK)
        sums[:, :-1] += side_weights[:, part] @ token_vectors[part].to(weights.dtype)
    sums[:, -1] = side_weights.sum(dim=1)
    sums = all_reduce(sums)
    return sums[:, :-1] / sums[:, -1:]


def _margins(token_vectors: Tensor, positive: Tensor, centroids: Tensor) -> Tensor:
    """(S,) |v - mu_other|^2 - |v - mu_own|^2, as the linear function of v that it is."""
    direction = 2 * (centroids[0] - centroids[1])
    bias = centroids[1].square().sum() - centroids[0].square().sum()
    plus_side = [
        token_vectors[start : start + CHUNK].to(direction.dtype) @ direction for start in range(0, len(positive), CHUNK)
    ]
    margin = torch.cat([*plus_side, direction.new_zeros(0)]) + bias
    return torch.where(positive, margin, -margin)


def _deviations(margins: Tensor, positive: Tensor, counts: Tensor, all_reduce: AllReduce) -> Tensor:
    """(2,) population standard deviations of the sides' margins over the global batch, each token once, floored."""
    sides = torch.stack([positive, ~positive]).to(margins.dtype)
    means = all_reduce(sides @ margins) / counts
    squares = all_reduce((sides * (margins - means.unsqueeze(1)).square()).sum(dim=1))
    return (squares / counts).sqrt().clamp_min(SIGMA_FLOOR)
