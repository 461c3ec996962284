"""Rewards: what an answer is, and whether it is right."""

from delta.rewards.final_answer import extract_final_answer, judge_final_answer
from delta.rewards.overlong import ShapingConfig, overlong_penalty

__all__ = ["ShapingConfig", "extract_final_answer", "judge_final_answer", "overlong_penalty"]
