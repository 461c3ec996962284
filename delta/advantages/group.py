"""Group-relative advantages: a rollout is as good as it is better than its siblings."""

from dataclasses import dataclass

import torch
from torch import Tensor

from delta.shapes import check_shape


@dataclass(kw_only=True, slots=True)
class GroupAdvantageConfig:
    """GRPO advantages (`advantage=group`)."""

    normalize_std: bool = True
    """Divide by the deviation of the group's rewards; without it this is Dr. GRPO's advantage."""


def group_advantages(rewards: Tensor, judged: Tensor, *, normalize_std: bool, eps: float = 1e-6) -> Tensor:
    """Score each rollout against its judged siblings.

        A[n,g] = (r[n,g] - mean_g r[n]) / (std_g r[n] + eps)    GRPO, arXiv:2402.03300; undivided it is Dr. GRPO,
                                                                arXiv:2503.20783

    Args:
        rewards: (N, G) float32, one group per row.
        judged: (N, G) bool, False where the verifier failed: such a rollout neither counts in its group nor gets an
            advantage, for an error is never a wrong answer.
        normalize_std: Divide by the population deviation of the group.
        eps: Added to the deviation, in reward units.

    Returns:
        (N, G) advantages; a group of equal rewards gets exact zeros.
    """
    check_shape(rewards, "N G")
    check_shape(judged, "N G", N=rewards.shape[0], G=rewards.shape[1])
    count = judged.sum(dim=-1, keepdim=True).clamp_min(1)
    mean = rewards.masked_fill(~judged, 0.0).sum(dim=-1, keepdim=True) / count
    advantages = (rewards - mean).masked_fill(~judged, 0.0)
    if normalize_std:
        deviation = (advantages.square().sum(dim=-1, keepdim=True) / count).sqrt()
        advantages = advantages / (deviation + eps)
    # The mean of equal floats can round off by an ulp, which dividing by eps turns into signal: compare instead.
    highest = rewards.masked_fill(~judged, -torch.inf).amax(dim=-1, keepdim=True)
    lowest = rewards.masked_fill(~judged, torch.inf).amin(dim=-1, keepdim=True)
    return advantages.masked_fill(highest <= lowest, 0.0)
