"""Losses: per-token surrogate terms, and the one place that reduces them to a scalar."""

from delta.losses.clipped import ClippedConfig, ClippedTerms, clipped_surrogate
from delta.losses.reduce import weighted_token_mean

__all__ = ["ClippedConfig", "ClippedTerms", "clipped_surrogate", "weighted_token_mean"]
