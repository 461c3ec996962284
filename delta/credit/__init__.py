"""Credit: one coefficient per token, how much of its rollout's advantage a token gets."""

from delta.credit.discriminative import (
    Credit,
    DiscriminativeConfig,
    discriminative_coefficients,
    estimate_credit,
)
from delta.credit.proxy import token_vectors
from delta.credit.uniform import UniformConfig

__all__ = [
    "Credit",
    "DiscriminativeConfig",
    "UniformConfig",
    "discriminative_coefficients",
    "estimate_credit",
    "token_vectors",
]
