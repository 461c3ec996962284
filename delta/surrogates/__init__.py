"""Surrogates: the objective of each token, given log-probabilities before and now, and its advantage."""

from delta.surrogates.cispo import CispoConfig, cispo_surrogate
from delta.surrogates.clipped import ClippedConfig, clipped_surrogate
from delta.surrogates.gspo import GspoConfig, gspo_surrogate
from delta.surrogates.sapo import SapoConfig, sapo_surrogate
from delta.surrogates.surrogate import SurrogateConfig, SurrogateTerms

__all__ = [
    "CispoConfig",
    "ClippedConfig",
    "GspoConfig",
    "SapoConfig",
    "SurrogateConfig",
    "SurrogateTerms",
    "cispo_surrogate",
    "clipped_surrogate",
    "gspo_surrogate",
    "sapo_surrogate",
]
