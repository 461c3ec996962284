"""What the learner asks of an aggregation; a new one is a file with a dataclass that answers."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class MiniBatch:
    """Size of the global mini-batch: what denominators are made of."""

    tokens: int
    """Loss-mask tokens."""
    rows: int
    """Rollouts with at least one of them."""


@dataclass(kw_only=True, slots=True)
class AggregationConfig(ABC):
    """The weight of each token's term in the loss of a mini-batch.

    Denominators are global, so the shares of micro-batches and ranks add up to the loss of the whole.
    """

    @abstractmethod
    def weights(self, row_tokens: Tensor, mini_batch: MiniBatch) -> Tensor:
        """(S,) float32 weights.

        Args:
            row_tokens: (S,) loss-mask tokens of each token's rollout; 1 or more on the loss mask.
            mini_batch: Global counts.
        """
