"""Token vectors: a cheap stand-in for the gradient of each token's log-probability."""

import torch
from torch import Tensor

from delta.shapes import check_shape


def token_vectors(hidden: Tensor, log_probs: Tensor) -> Tensor:
    """The gradient of log p(y) with respect to the LM-head row of the sampled token y.

        v = (1 - p(y)) h                                      arXiv:2605.21467, section 3

    Args:
        hidden: (S, H) input of the LM head at the position that predicts the token.
        log_probs: (S,) of the sampled tokens under the old policy at the sampling temperature, in nats.

    Returns:
        (S, H) in the dtype of `hidden`.
    """
    check_shape(hidden, "S H")
    check_shape(log_probs, "S", S=hidden.shape[0])
    # expm1 keeps 1 - p where p is within rounding of 1, which most tokens of a trained policy are.
    return hidden * -torch.expm1(log_probs).unsqueeze(-1).to(hidden.dtype)
