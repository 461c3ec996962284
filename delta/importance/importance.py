"""What the learner asks of an importance correction, and the ratio that corrections are made of.

Rollouts are sampled by an engine and trained on by a learner. Their log-probabilities differ: by numerics, and by the
policy where generation runs ahead. A correction is one more factor on each token's term, fixed before the first step.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum

from torch import Tensor

from delta.tokens import OldTokens, row_sum


class Level(Enum):
    """Whose ratio counts: the token's own (`token`), or the product over its rollout (`sequence`)."""

    token = "token"
    sequence = "sequence"


@dataclass(kw_only=True, slots=True)
class ImportanceConfig(ABC):
    """A factor per token that accounts for who sampled it; its fields are the correction's settings."""

    @abstractmethod
    def weights(self, tokens: OldTokens) -> Tensor | None:
        """(S,) factors, or None for no correction."""


def engine_log_ratio(tokens: OldTokens, level: Level) -> Tensor:
    """(S,) logarithm of learner over engine probability, in nats: of the token, or summed over its loss-mask tokens."""
    log_ratio = tokens.log_probs - tokens.rollout_log_probs
    if level is Level.token:
        return log_ratio
    masked = log_ratio.masked_fill(~tokens.loss_mask, 0.0)
    return row_sum(masked, tokens.rows)[tokens.rows]
