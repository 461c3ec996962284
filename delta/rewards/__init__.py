"""Rewards: what an answer is, whether it is right, and what that is worth."""

from delta.rewards.final_answer import check_reference, extract_final_answer, judge_final_answer
from delta.rewards.plugin import judge_by_plugin
from delta.rewards.reward import PartConfig, Reward, RewardConfig

__all__ = [
    "PartConfig",
    "Reward",
    "RewardConfig",
    "check_reference",
    "extract_final_answer",
    "judge_by_plugin",
    "judge_final_answer",
]
