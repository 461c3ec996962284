"""What the learner asks of an advantage; a new one is a file with a dataclass that answers."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from delta.shapes import check_shape


@dataclass(kw_only=True, slots=True)
class AdvantageConfig(ABC):
    """From the rewards of a batch to the advantage of each rollout; its fields are the variant's settings."""

    @abstractmethod
    def advantages(self, rewards: Tensor, judged: Tensor) -> Tensor:
        """Score the rollouts of a batch.

        Args:
            rewards: (N, G) float32, one group per row.
            judged: (N, G) bool, False where the verifier failed: such a rollout neither counts for the others nor gets
                an advantage, for an error is never a wrong answer.

        Returns:
            (N, G)
        """


def check_rewards(rewards: Tensor, judged: Tensor) -> None:
    """Both are (N, G)."""
    check_shape(rewards, "N G")
    check_shape(judged, "N G", N=rewards.shape[0], G=rewards.shape[1])


def tied_groups(rewards: Tensor, judged: Tensor) -> Tensor:
    """(N, 1) bool, groups whose judged rewards are all equal.

    The mean of equal floats can round off by an ulp, which dividing by a deviation of 0 would turn into signal.
    """
    highest = rewards.masked_fill(~judged, -torch.inf).amax(dim=-1, keepdim=True)
    lowest = rewards.masked_fill(~judged, torch.inf).amin(dim=-1, keepdim=True)
    return highest <= lowest


def centred(rewards: Tensor, judged: Tensor) -> tuple[Tensor, Tensor]:
    """Rewards minus the mean of their group's judged ones (N, G), 0 where not judged; and the judged counts (N, 1)."""
    count = judged.sum(dim=-1, keepdim=True).clamp_min(1)
    mean = rewards.masked_fill(~judged, 0.0).sum(dim=-1, keepdim=True) / count
    return (rewards - mean).masked_fill(~judged, 0.0), count
