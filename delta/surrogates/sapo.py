"""SAPO: a smooth gate in place of the clip."""

from dataclasses import dataclass

import torch
from torch import Tensor

from delta.shapes import check_shape
from delta.surrogates.surrogate import MAX_LOG_RATIO, SurrogateConfig, SurrogateTerms
from delta.tokens import OldTokens


@dataclass(kw_only=True, slots=True)
class SapoConfig(SurrogateConfig):
    """Soft gate (`surrogate=sapo`)."""

    tau_positive: float = 1.0
    """Sharpness of the gate where A > 0; the larger, the sooner a token that has moved stops counting."""
    tau_negative: float = 1.05
    """Sharpness of the gate elsewhere."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.tau_positive > 0 or not self.tau_negative > 0:
            raise ValueError(
                f"surrogate.tau_positive={self.tau_positive}, surrogate.tau_negative={self.tau_negative}: expected "
                "more than 0; the paper uses 1.0 and 1.05."
            )

    def terms(self, log_probs: Tensor, tokens: OldTokens) -> SurrogateTerms:
        """See `sapo_surrogate`."""
        return sapo_surrogate(
            log_probs,
            tokens.log_probs,
            tokens.advantages,
            tau_positive=self.tau_positive,
            tau_negative=self.tau_negative,
        )


def sapo_surrogate(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, *, tau_positive: float, tau_negative: float
) -> SurrogateTerms:
    """A gated ratio: its gradient is that of r A at r = 1 and fades on both sides.

        J = (4 / tau) sigmoid(tau (r - 1)) A,   tau = tau_positive where A > 0, else tau_negative       arXiv:2511.20347

    Args:
        log_probs: (S,) under the policy being trained, in nats.
        old_log_probs: (S,) of the same tokens at the start of the step.
        advantages: (S,) advantage of each token's rollout.
        tau_positive: See `SapoConfig`.
        tau_negative: See `SapoConfig`.

    Returns:
        Objective per token; nothing is ever clipped.
    """
    check_shape(log_probs, "S")
    check_shape(old_log_probs, "S", S=log_probs.shape[0])
    check_shape(advantages, "S", S=log_probs.shape[0])
    ratio = torch.exp((log_probs - old_log_probs).clamp(max=MAX_LOG_RATIO))
    tau = torch.full_like(ratio, tau_negative).masked_fill(advantages > 0, tau_positive)
    objective = 4 / tau * torch.sigmoid(tau * (ratio - 1)) * advantages
    return SurrogateTerms(objective, torch.zeros_like(advantages, dtype=torch.bool))
