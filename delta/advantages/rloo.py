"""Leave-one-out advantages: a rollout against the mean of the others (RLOO)."""

from dataclasses import dataclass

from torch import Tensor

from delta.advantages.advantage import AdvantageConfig, centred, check_rewards, tied_groups


@dataclass(kw_only=True, slots=True)
class RlooConfig(AdvantageConfig):
    """RLOO advantages (`advantage=rloo`)."""

    def advantages(self, rewards: Tensor, judged: Tensor) -> Tensor:
        """See `leave_one_out_advantages`."""
        return leave_one_out_advantages(rewards, judged)


def leave_one_out_advantages(rewards: Tensor, judged: Tensor) -> Tensor:
    """Score each rollout against the other judged ones of its group, an unbiased baseline.

        A[n,g] = r[n,g] - mean_{g' != g} r[n,g']  =  (r[n,g] - mean_g r[n]) G / (G - 1)       RLOO, arXiv:2402.14740

    Args:
        rewards: (N, G) float32, one group per row.
        judged: (N, G) bool; G counts the judged ones only.

    Returns:
        (N, G) advantages; a rollout without a judged sibling gets 0, and a group of equal rewards exact zeros.
    """
    check_rewards(rewards, judged)
    advantages, count = centred(rewards, judged)
    advantages = advantages * count / (count - 1).clamp_min(1)
    return advantages.masked_fill(tied_groups(rewards, judged), 0.0)
