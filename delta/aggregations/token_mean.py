"""Token mean: every token of the mini-batch counts the same (DAPO)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from delta.aggregations.aggregation import AggregationConfig, MiniBatch


@dataclass(kw_only=True, slots=True)
class TokenMeanConfig(AggregationConfig):
    """J = sum_i sum_t J_it / sum_i T_i, arXiv:2503.14476 (`aggregation=token_mean`)."""

    def weights(self, row_tokens: Tensor, mini_batch: MiniBatch) -> Tensor:
        """1 / tokens."""
        return torch.full_like(row_tokens, 1 / max(mini_batch.tokens, 1), dtype=torch.float32)
