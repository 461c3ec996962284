"""Truncated importance sampling between the engine that sampled and the learner that trains."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from delta.importance.importance import ImportanceConfig, Level, engine_log_ratio
from delta.tokens import OldTokens


@dataclass(kw_only=True, slots=True)
class TruncatedConfig(ImportanceConfig):
    """w = min(pi_learner / pi_engine, cap) (`importance=truncated`).

    The truncation of Ionides, 2008, as applied to rollout engines by Yao et al., 2025 ("Your efficient RL framework
    secretly brings you off-policy RL training").
    """

    level: Level = Level.token
    """Ratio of the token, or of its whole rollout."""
    cap: float = 2.0
    """Largest factor."""

    def __post_init__(self) -> None:
        """Check the range."""
        if not 1 <= self.cap < math.inf:
            raise ValueError(f"importance.cap={self.cap}: expected a finite factor of 1 or more; 2 is usual.")

    def weights(self, tokens: OldTokens) -> Tensor:
        """(S,) in [0, cap]."""
        return torch.exp(engine_log_ratio(tokens, self.level).clamp(max=math.log(self.cap)))
