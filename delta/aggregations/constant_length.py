"""Constant length: token sums over a length that does not depend on the rollouts (Dr. GRPO)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from delta.aggregations.aggregation import AggregationConfig, MiniBatch


@dataclass(kw_only=True, slots=True)
class ConstantLengthConfig(AggregationConfig):
    """J = mean_i (sum_t J_it / L), arXiv:2503.20783 (`aggregation=constant_length`)."""

    length: int = 1
    """L, tokens; the configuration file sets it to `rollout.max_new_tokens`."""

    def __post_init__(self) -> None:
        """Check the range."""
        if self.length < 1:
            raise ValueError(f"aggregation.length={self.length}: expected 1 or more tokens.")

    def weights(self, row_tokens: Tensor, mini_batch: MiniBatch) -> Tensor:
        """1 / (rows L)."""
        return torch.full_like(row_tokens, 1 / (max(mini_batch.rows, 1) * self.length), dtype=torch.float32)
