"""Advantages: rewards (N, G) to advantages (N, G)."""

from delta.advantages.group import GroupAdvantageConfig, group_advantages

__all__ = ["GroupAdvantageConfig", "group_advantages"]
