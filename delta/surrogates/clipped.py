"""The clipped surrogate with decoupled bounds and the dual clip (PPO, GRPO, DAPO)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from delta.shapes import check_shape
from delta.surrogates.surrogate import MAX_LOG_RATIO, SurrogateConfig, SurrogateTerms
from delta.tokens import OldTokens


@dataclass(kw_only=True, slots=True)
class ClippedConfig(SurrogateConfig):
    """Clipped policy-gradient surrogate (`surrogate=clipped`; `surrogate=ppo` with equal bounds and no dual clip)."""

    epsilon_low: float = 0.2
    """The ratio counts down to 1 - epsilon_low."""
    epsilon_high: float = 0.28
    """The ratio counts up to 1 + epsilon_high (DAPO's clip-higher)."""
    dual_clip: float = 10.0
    """For negative advantages the term is bounded by dual_clip * A, however large the ratio; .inf for no bound."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 < self.epsilon_low < 1 or not self.epsilon_high > 0:
            raise ValueError(
                f"surrogate.epsilon_low={self.epsilon_low}, surrogate.epsilon_high={self.epsilon_high}: expected "
                "0 < epsilon_low < 1 and epsilon_high > 0; DAPO uses 0.2 and 0.28."
            )
        if not self.dual_clip > 1:
            raise ValueError(f"surrogate.dual_clip={self.dual_clip}: expected a bound above 1; the paper uses 10.")

    def terms(self, log_probs: Tensor, tokens: OldTokens) -> SurrogateTerms:
        """See `clipped_surrogate`."""
        return clipped_surrogate(
            log_probs,
            tokens.log_probs,
            tokens.advantages,
            epsilon_low=self.epsilon_low,
            epsilon_high=self.epsilon_high,
            dual_clip=self.dual_clip,
        )


def clipped_surrogate(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    *,
    epsilon_low: float,
    epsilon_high: float,
    dual_clip: float,
) -> SurrogateTerms:
    """Pessimistic bound on the policy improvement of each token.

        r = exp(log_prob - old_log_prob)
        J = min(r A, clip(r, 1 - eps_low, 1 + eps_high) A)      PPO, arXiv:1707.06347; DAPO, arXiv:2503.14476
        J = max(J, c A) where A < 0                             dual clip, arXiv:1912.09729

    Args:
        log_probs: (S,) of the sampled tokens under the policy being trained, in nats.
        old_log_probs: (S,) of the same tokens at the start of the step.
        advantages: (S,) advantage of each token's rollout.
        epsilon_low: See `ClippedConfig`.
        epsilon_high: See `ClippedConfig`.
        dual_clip: c.

    Returns:
        Objective and clip indicator per token.
    """
    check_shape(log_probs, "S")
    check_shape(old_log_probs, "S", S=log_probs.shape[0])
    check_shape(advantages, "S", S=log_probs.shape[0])
    bounded_below = math.isfinite(dual_clip)
    # Both bounds are long passed where the exponential would overflow, and its infinite gradient would make NaN of the
    # zero that they put in its place.
    largest = max(MAX_LOG_RATIO, math.log(dual_clip) + 1) if bounded_below else MAX_LOG_RATIO
    ratio = torch.exp((log_probs - old_log_probs).clamp(max=largest))
    bounded = ratio.clamp(1 - epsilon_low, 1 + epsilon_high)
    pessimistic = torch.minimum(ratio * advantages, bounded * advantages)
    objective = pessimistic
    if bounded_below:
        objective = torch.where(advantages < 0, torch.maximum(pessimistic, dual_clip * advantages), pessimistic)
    outside = torch.where(advantages > 0, ratio > 1 + epsilon_high, (ratio < 1 - epsilon_low) | (ratio > dual_clip))
    return SurrogateTerms(objective, outside & (advantages != 0))
