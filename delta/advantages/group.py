"""Group-relative advantages: a rollout is as good as it is better than its siblings (GRPO, Dr. GRPO)."""

from dataclasses import dataclass

from torch import Tensor

from delta.advantages.advantage import AdvantageConfig, centred, check_rewards, tied_groups


@dataclass(kw_only=True, slots=True)
class GroupAdvantageConfig(AdvantageConfig):
    """GRPO advantages (`advantage=group`; `advantage=dr_grpo` without the deviation)."""

    normalize_std: bool = True
    """Divide by the deviation of the group's rewards; without it this is Dr. GRPO's advantage."""

    def advantages(self, rewards: Tensor, judged: Tensor) -> Tensor:
        """See `group_advantages`."""
        return group_advantages(rewards, judged, normalize_std=self.normalize_std)


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
    check_rewards(rewards, judged)
    advantages, count = centred(rewards, judged)
    if normalize_std:
        deviation = (advantages.square().sum(dim=-1, keepdim=True) / count).sqrt()
        advantages = advantages / (deviation + eps)
    return advantages.masked_fill(tied_groups(rewards, judged), 0.0)
