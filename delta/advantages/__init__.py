"""Advantages: rewards (N, G) to advantages (N, G)."""

from delta.advantages.advantage import AdvantageConfig
from delta.advantages.group import GroupAdvantageConfig, group_advantages
from delta.advantages.reinforce_plus_plus import ReinforcePlusPlusConfig, whitened_advantages
from delta.advantages.rloo import RlooConfig, leave_one_out_advantages

__all__ = [
    "AdvantageConfig",
    "GroupAdvantageConfig",
    "ReinforcePlusPlusConfig",
    "RlooConfig",
    "group_advantages",
    "leave_one_out_advantages",
    "whitened_advantages",
]
