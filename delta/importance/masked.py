"""Masked importance sampling (IcePop): tokens on which engine and learner disagree too much do not count at all."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from delta.importance.importance import ImportanceConfig, Level, engine_log_ratio
from delta.tokens import OldTokens


@dataclass(kw_only=True, slots=True)
class MaskedConfig(ImportanceConfig):
    """w = k where low <= k <= high, else 0, with k = pi_learner / pi_engine (`importance=masked`).

    IcePop, Ling Team 2025, arXiv:2510.18855.
    """

    level: Level = Level.token
    """Ratio of the token, or of its whole rollout."""
    low: float = 0.5
    """Smallest ratio that counts."""
    high: float = 5.0
    """Largest ratio that counts."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 < self.low <= 1 <= self.high < math.inf:
            raise ValueError(
                f"importance.low={self.low}, importance.high={self.high}: expected 0 < low <= 1 <= high < inf; the "
                "paper uses 0.5 and 5."
            )

    def weights(self, tokens: OldTokens) -> Tensor:
        """(S,) 0, or in [low, high]."""
        log_ratio = engine_log_ratio(tokens, self.level)
        trusted = (log_ratio >= math.log(self.low)) & (log_ratio <= math.log(self.high))
        return torch.where(trusted, torch.exp(log_ratio.clamp(max=math.log(self.high))), 0.0)
