"""Rollout workers: vLLM engines that sample groups of answers."""
