"""GSPO: one importance ratio per rollout, clipped as a whole."""

from dataclasses import dataclass

import torch
from torch import Tensor

from delta.shapes import check_shape
from delta.surrogates.surrogate import MAX_LOG_RATIO, SurrogateConfig, SurrogateTerms
from delta.tokens import OldTokens, row_mean


@dataclass(kw_only=True, slots=True)
class GspoConfig(SurrogateConfig):
    """Sequence-level ratio (`surrogate=gspo`); its paper aggregates with `aggregation=sequence_mean`."""

    epsilon_low: float = 3e-4
    """The rollout's ratio counts down to 1 - epsilon_low."""
    epsilon_high: float = 4e-4
    """The rollout's ratio counts up to 1 + epsilon_high."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 < self.epsilon_low < 1 or not self.epsilon_high > 0:
            raise ValueError(
                f"surrogate.epsilon_low={self.epsilon_low}, surrogate.epsilon_high={self.epsilon_high}: expected "
                "0 < epsilon_low < 1 and epsilon_high > 0; the paper uses 3e-4 and 4e-4."
            )

    def terms(self, log_probs: Tensor, tokens: OldTokens) -> SurrogateTerms:
        """See `gspo_surrogate`."""
        return gspo_surrogate(
            log_probs,
            tokens.log_probs,
            tokens.advantages,
            tokens.loss_mask,
            tokens.rows,
            epsilon_low=self.epsilon_low,
            epsilon_high=self.epsilon_high,
        )


def gspo_surrogate(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
    rows: Tensor,
    *,
    epsilon_low: float,
    epsilon_high: float,
) -> SurrogateTerms:
    """The clipped objective of a rollout, told token by token.

        s   = exp(mean_t(log_prob_t - old_log_prob_t))        over the loss-mask tokens of the rollout
        s_t = sg(s) exp(log_prob_t - sg(log_prob_t))          equal to s, with the gradient of token t alone
        J_t = min(s_t A, clip(s_t, 1 - eps_low, 1 + eps_high) A)

    arXiv:2507.18071, in the paper's token form: with one advantage per rollout the mean of J_t over the tokens has
    value and gradient of min(s A, clip(s) A), and each token has a term of its own for credit to weight.

    Args:
        log_probs: (S,) under the policy being trained, in nats.
        old_log_probs: (S,) of the same tokens at the start of the step.
        advantages: (S,) advantage of each token's rollout.
        loss_mask: (S,) bool.
        rows: (S,) ascending row numbers.
        epsilon_low: See `GspoConfig`.
        epsilon_high: See `GspoConfig`.

    Returns:
        Objective per token, and whether its rollout was clipped.
    """
    check_shape(log_probs, "S")
    for other in (old_log_probs, advantages, loss_mask, rows):
        check_shape(other, "S", S=log_probs.shape[0])
    fixed = log_probs.detach()
    mean_log_ratio = row_mean(fixed - old_log_probs, loss_mask, rows)[rows]
    ratio = torch.exp(mean_log_ratio.clamp(max=MAX_LOG_RATIO)) * torch.exp(log_probs - fixed)
    bounded = ratio.clamp(1 - epsilon_low, 1 + epsilon_high)
    objective = torch.minimum(ratio * advantages, bounded * advantages)
    outside = torch.where(advantages > 0, ratio > 1 + epsilon_high, ratio < 1 - epsilon_low)
    return SurrogateTerms(objective, outside & (advantages != 0))
