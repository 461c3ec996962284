"""Sequence mean of token sums: a rollout counts by its length."""

from dataclasses import dataclass

import torch
from torch import Tensor

from delta.aggregations.aggregation import AggregationConfig, MiniBatch


@dataclass(kw_only=True, slots=True)
class SequenceSumConfig(AggregationConfig):
    """J = mean_i (sum_t J_it), the policy gradient of whole rollouts, as in RLOO, arXiv:2402.14740.

    `aggregation=sequence_sum`; the loss grows with the length of the rollouts.
    """

    def weights(self, row_tokens: Tensor, mini_batch: MiniBatch) -> Tensor:
        """1 / rows."""
        return torch.full_like(row_tokens, 1 / max(mini_batch.rows, 1), dtype=torch.float32)
