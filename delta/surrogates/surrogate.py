"""What the learner asks of a surrogate; a new one is a file with a dataclass that answers."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from delta.tokens import OldTokens

MAX_LOG_RATIO = 20.0
"""Log-ratios are cut here, far beyond every bound: an infinite ratio would make NaN of a zero beside it."""


@dataclass(frozen=True, slots=True, eq=False)
class SurrogateTerms:
    """The objective of each token, and where a bound was active."""

    objective: Tensor
    """(S,) to be maximised; carries the gradient."""
    clipped: Tensor
    """(S,) bool, tokens that a bound holds back: their gradient is removed, or cut to the bound."""


@dataclass(kw_only=True, slots=True)
class SurrogateConfig(ABC):
    """An objective per token; its fields are the surrogate's settings."""

    @abstractmethod
    def terms(self, log_probs: Tensor, tokens: OldTokens) -> SurrogateTerms:
        """The terms of a micro-batch.

        Args:
            log_probs: (S,) under the policy being trained, with gradient, in nats.
            tokens: What was known of them before the first optimizer step.
        """
