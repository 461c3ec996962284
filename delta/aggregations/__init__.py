"""Aggregations: from the terms of tokens to the loss of a mini-batch."""

from delta.aggregations.aggregation import AggregationConfig, MiniBatch
from delta.aggregations.constant_length import ConstantLengthConfig
from delta.aggregations.sequence_mean import SequenceMeanConfig
from delta.aggregations.sequence_sum import SequenceSumConfig
from delta.aggregations.token_mean import TokenMeanConfig

__all__ = [
    "AggregationConfig",
    "ConstantLengthConfig",
    "MiniBatch",
    "SequenceMeanConfig",
    "SequenceSumConfig",
    "TokenMeanConfig",
]
