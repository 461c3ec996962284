"""CISPO: REINFORCE with a truncated importance weight, so no token loses its gradient."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from delta.shapes import check_shape
from delta.surrogates.surrogate import SurrogateConfig, SurrogateTerms
from delta.tokens import OldTokens


@dataclass(kw_only=True, slots=True)
class CispoConfig(SurrogateConfig):
    """Truncated weight on the log-probability (`surrogate=cispo`)."""

    epsilon_high: float = 4.0
    """The weight is cut at 1 + epsilon_high; the paper gives no value, later large runs use 4 to 8."""

    def __post_init__(self) -> None:
        """Check the range."""
        if not 0 < self.epsilon_high < math.inf:
            raise ValueError(f"surrogate.epsilon_high={self.epsilon_high}: expected a finite bound above 0.")

    def terms(self, log_probs: Tensor, tokens: OldTokens) -> SurrogateTerms:
        """See `cispo_surrogate`."""
        return cispo_surrogate(log_probs, tokens.log_probs, tokens.advantages, epsilon_high=self.epsilon_high)


def cispo_surrogate(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, *, epsilon_high: float
) -> SurrogateTerms:
    """The policy gradient under a bounded importance weight.

        J = sg(min(r, 1 + eps_high)) A log_prob                                                         arXiv:2506.13585

    Args:
        log_probs: (S,) under the policy being trained, in nats.
        old_log_probs: (S,) of the same tokens at the start of the step.
        advantages: (S,) advantage of each token's rollout.
        epsilon_high: See `CispoConfig`.

    Returns:
        Objective per token, and whether its weight was cut.
    """
    check_shape(log_probs, "S")
    check_shape(old_log_probs, "S", S=log_probs.shape[0])
    check_shape(advantages, "S", S=log_probs.shape[0])
    log_ratio = log_probs.detach() - old_log_probs
    log_bound = math.log1p(epsilon_high)
    weight = torch.exp(log_ratio.clamp(max=log_bound))
    return SurrogateTerms(weight * advantages * log_probs, (log_ratio > log_bound) & (advantages != 0))
