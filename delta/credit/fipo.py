"""FIPO: a token counts by how the policy's view of what follows it has moved."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from delta.credit.estimator import Credit, CreditConfig, CreditInputs
from delta.shapes import check_shape
from delta.surrogates.surrogate import MAX_LOG_RATIO
from delta.tokens import OldTokens, row_count, row_sum

BLOCK = 256
"""Tokens whose discounted sums are one matrix product; blocks of a row are then chained from its end."""


@dataclass(kw_only=True, slots=True)
class FipoConfig(CreditConfig):
    """Future-KL weights, followed through the optimizer steps of a batch (`credit=fipo`)."""

    half_life: float = 32.0
    """Tokens after which the influence of a later token has halved."""
    epsilon_low: float = 0.2
    """The weight goes down to 1 - epsilon_low; 0 is the paper's high-only variant."""
    epsilon_high: float = 0.2
    """The weight goes up to 1 + epsilon_high."""
    dual_clip: float = 10.0
    """Tokens whose ratio exceeds this are left out of the sum."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.half_life > 0:
            raise ValueError(f"credit.half_life={self.half_life}: expected more than 0 tokens; the paper uses 32.")
        if not 0 <= self.epsilon_low < 1 or not self.epsilon_high >= 0:
            raise ValueError(
                f"credit.epsilon_low={self.epsilon_low}, credit.epsilon_high={self.epsilon_high}: expected "
                "0 <= epsilon_low < 1 and epsilon_high >= 0; the paper uses 0.2 and 0.2."
            )
        if not self.dual_clip > 1:
            raise ValueError(f"credit.dual_clip={self.dual_clip}: expected a bound above 1; the paper uses 10.")

    def needs_old_pass(self) -> bool:
        """No: the coefficients are 1."""
        return False

    def estimate(self, inputs: CreditInputs) -> Credit:
        """1 on the loss mask: before the first optimizer step no view has moved."""
        return Credit(inputs.tokens.loss_mask.float())

    def refresh(self, coefficients: Tensor, log_ratio: Tensor, tokens: OldTokens) -> Tensor:
        """Coefficients times the weight of each token."""
        kept = tokens.loss_mask & (log_ratio <= math.log(self.dual_clip))
        # A token that has become impossible would make NaN of what does not follow it: cut far beyond every bound.
        counted = torch.where(kept, log_ratio.clamp_min(-MAX_LOG_RATIO), 0.0)
        future = future_kl(counted, tokens.rows, half_life=self.half_life)
        return coefficients * future.exp().clamp(1 - self.epsilon_low, 1 + self.epsilon_high)


def future_kl(log_ratio: Tensor, rows: Tensor, *, half_life: float) -> Tensor:
    """Discounted sum of the log-ratios from each token to the end of its rollout.

        F_t = sum_{k >= t} gamma^(k - t) (log_prob_k - old_log_prob_k),   gamma = 2^(-1 / half_life)

    FIPO, arXiv:2603.19835.

    Args:
        log_ratio: (S,) 0 where a token is to be left out.
        rows: (S,) ascending row numbers.
        half_life: In tokens.

    Returns:
        (S,) in nats.
    """
    check_shape(log_ratio, "S")
    check_shape(rows, "S", S=log_ratio.shape[0])
    if not len(rows):
        return log_ratio
    lengths = row_sum(torch.ones_like(rows), rows)
    starts = lengths.cumsum(0) - lengths
    columns = torch.arange(len(rows), device=rows.device) - starts[rows]
    blocks = -(-int(lengths.max()) // BLOCK)
    padded = log_ratio.new_zeros(row_count(rows), blocks * BLOCK)
    padded[rows, columns] = log_ratio

    steps = torch.arange(BLOCK, device=rows.device)
    distance = steps.unsqueeze(0) - steps.unsqueeze(1)
    gamma = 2.0 ** (-1.0 / half_life)
    discount = torch.where(distance >= 0, gamma ** distance.clamp_min(0).to(log_ratio.dtype), 0.0)
    sums = padded.view(-1, blocks, BLOCK) @ discount.T
    to_the_next = gamma ** (BLOCK - steps).to(log_ratio.dtype)
    for block in reversed(range(blocks - 1)):
        sums[:, block] += to_the_next * sums[:, block + 1, :1]
    return sums.flatten(1)[rows, columns]
