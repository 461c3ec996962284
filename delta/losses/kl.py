"""KL divergence from a reference policy, estimated at the sampled tokens."""

from enum import Enum

import torch
from torch import Tensor

from delta.shapes import check_shape
from delta.surrogates.surrogate import MAX_LOG_RATIO


class KlEstimator(Enum):
    """Estimators of KL(policy || reference): `k1` unbiased, `k2` of low variance, `k3` both and never negative."""

    k1 = "k1"
    k2 = "k2"
    k3 = "k3"


def kl_estimate(log_probs: Tensor, ref_log_probs: Tensor, *, estimator: KlEstimator) -> Tensor:
    """Divergence from the reference at each sampled token.

        d = log_prob - ref_log_prob
        k1 = d,   k2 = d^2 / 2,   k3 = exp(-d) - 1 + d          Schulman 2020, "Approximating KL divergence"

    Args:
        log_probs: (S,) under the policy, in nats.
        ref_log_probs: (S,) under the reference policy.
        estimator: Which.

    Returns:
        (S,) in nats.
    """
    check_shape(log_probs, "S")
    check_shape(ref_log_probs, "S", S=log_probs.shape[0])
    difference = log_probs - ref_log_probs
    if estimator is KlEstimator.k1:
        return difference
    if estimator is KlEstimator.k2:
        return difference.square() / 2
    # Cut as a whole: with the exponential alone cut, what is left would pull away from the reference.
    difference = difference.clamp(min=-MAX_LOG_RATIO)
    return torch.expm1(-difference) + difference


def kl_penalty(log_probs: Tensor, ref_log_probs: Tensor, *, estimator: KlEstimator) -> Tensor:
    """The term to be added to the loss: its value is the estimate, its gradient pulls towards the reference.

    The gradient of k1 itself is that of log_prob, whose mean over the policy's own tokens is 0: it would do nothing.
    Weighted by a ratio of value 1, it becomes the policy gradient of the divergence, d grad log_prob, plus that zero.
    """
    estimate = kl_estimate(log_probs, ref_log_probs, estimator=estimator)
    if estimator is KlEstimator.k1:
        return torch.exp(log_probs - log_probs.detach()) * estimate
    return estimate
