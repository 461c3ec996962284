"""Credit: one coefficient per token, how much of its rollout's advantage a token gets."""

from delta.credit.discriminative import (
    DiscriminativeConfig,
    Proxy,
    SidedCredit,
    discriminative_coefficients,
    estimate_credit,
)
from delta.credit.estimator import Credit, CreditConfig, CreditInputs
from delta.credit.fipo import FipoConfig, future_kl
from delta.credit.forking import ForkingConfig
from delta.credit.last_layer import LastLayerProxy
from delta.credit.proxy import RowProxy, token_vectors
from delta.credit.share import ShareConfig
from delta.credit.space import TokenSpace
from delta.credit.top_share import top_share
from delta.credit.uniform import UniformConfig
from delta.credit.within_side import WithinSideConfig

__all__ = [
    "Credit",
    "CreditConfig",
    "CreditInputs",
    "DiscriminativeConfig",
    "FipoConfig",
    "ForkingConfig",
    "LastLayerProxy",
    "Proxy",
    "RowProxy",
    "ShareConfig",
    "SidedCredit",
    "TokenSpace",
    "UniformConfig",
    "WithinSideConfig",
    "discriminative_coefficients",
    "estimate_credit",
    "future_kl",
    "token_vectors",
    "top_share",
]
