"""Importance: a factor per token for what lies between the engine that sampled it and the learner."""

from delta.importance.importance import ImportanceConfig, Level
from delta.importance.masked import MaskedConfig
from delta.importance.none import NoneConfig
from delta.importance.truncated import TruncatedConfig

__all__ = ["ImportanceConfig", "Level", "MaskedConfig", "NoneConfig", "TruncatedConfig"]
