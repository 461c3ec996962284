"""Batch-whitened advantages: a rollout against all others of the batch (REINFORCE++)."""

from dataclasses import dataclass

from torch import Tensor

from delta.advantages.advantage import AdvantageConfig, centred, check_rewards, tied_groups


@dataclass(kw_only=True, slots=True)
class ReinforcePlusPlusConfig(AdvantageConfig):
    """REINFORCE++ advantages (`advantage=reinforce_plus_plus`)."""

    group_baseline: bool = False
    """Subtract the mean of the group before whitening (the paper's REINFORCE++-baseline, for reasoning tasks)."""

    def advantages(self, rewards: Tensor, judged: Tensor) -> Tensor:
        """See `whitened_advantages`."""
        return whitened_advantages(rewards, judged, group_baseline=self.group_baseline)


def whitened_advantages(rewards: Tensor, judged: Tensor, *, group_baseline: bool, eps: float = 1e-6) -> Tensor:
    """Score each rollout against the whole batch: no bias from the deviation of a small group.

        x = r, or r - mean_g r[n] with a group baseline
        A = (x - mean x) / (std x + eps)                        over the batch       REINFORCE++, arXiv:2501.03262

    Args:
        rewards: (N, G) float32, one group per row.
        judged: (N, G) bool; the others count nowhere and get 0.
        group_baseline: Subtract the mean of the group first; a group of equal rewards then gets exact zeros.
        eps: Added to the population deviation, in reward units.

    Returns:
        (N, G) advantages; exact zeros if all rewards of the batch are equal.
    """
    check_rewards(rewards, judged)
    if not rewards.numel():
        return rewards.clone()
    flat, mask = rewards.reshape(1, -1), judged.reshape(1, -1)
    tied = tied_groups(flat, mask)
    if group_baseline:
        ties = tied_groups(rewards, judged)
        flat = centred(rewards, judged)[0].masked_fill(ties, 0.0).reshape(1, -1)
    values, count = centred(flat, mask)
    deviation = (values.square().sum(dim=-1, keepdim=True) / count).sqrt()
    advantages = (values / (deviation + eps)).masked_fill(tied, 0.0).reshape(rewards.shape)
    return advantages.masked_fill(ties, 0.0) if group_baseline else advantages
