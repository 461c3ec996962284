"""Sequence mean of token means: every rollout counts the same (GRPO, GSPO)."""

from dataclasses import dataclass

from torch import Tensor

from delta.aggregations.aggregation import AggregationConfig, MiniBatch


@dataclass(kw_only=True, slots=True)
class SequenceMeanConfig(AggregationConfig):
    """J = mean_i (sum_t J_it / T_i), arXiv:2402.03300 (`aggregation=sequence_mean`)."""

    def weights(self, row_tokens: Tensor, mini_batch: MiniBatch) -> Tensor:
        """1 / (rows T_i)."""
        return 1 / (max(mini_batch.rows, 1) * row_tokens.clamp_min(1).float())
