"""Losses: what is added to the surrogate, and the sum that makes a scalar of it."""

from delta.losses.kl import KlEstimator, kl_estimate, kl_penalty
from delta.losses.reduce import weighted_sum
from delta.losses.regularization import RegularizationConfig

__all__ = ["KlEstimator", "RegularizationConfig", "kl_estimate", "kl_penalty", "weighted_sum"]
