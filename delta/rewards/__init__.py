"""Rewards: what an answer is, and whether it is right."""

from delta.rewards.final_answer import extract_final_answer, judge_final_answer

__all__ = ["extract_final_answer", "judge_final_answer"]
