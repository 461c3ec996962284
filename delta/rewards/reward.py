"""The reward: named parts, weighted and summed, each on the record by itself."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from delta.errors import ConfigError
from delta.rewards.plugin import find
from delta.types import Sample, Verdict


@dataclass(kw_only=True, slots=True)
class PartConfig:
    """One part of the reward."""

    function: str = ""
    """Its Python path; see `delta.rewards.parts` for those that come along and for how to write one."""
    weight: float = 1.0
    """What its value is multiplied by."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keywords for the function."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not math.isfinite(self.weight):
            raise ValueError(f"reward: weight={self.weight}: expected a finite number.")


def _correctness_alone() -> dict[str, PartConfig]:
    return {"correctness": PartConfig(function="delta.rewards.parts.correctness")}


@dataclass(kw_only=True, slots=True)
class RewardConfig:
    """What an answer is worth (`reward=...`)."""

    parts: dict[str, PartConfig] = field(default_factory=_correctness_alone)
    """By name; each is logged as `reward_part/NAME`."""

    def __post_init__(self) -> None:
        """Check that there is something to sum."""
        if not self.parts:
            raise ValueError("reward.parts is empty: expected at least one part, such as correctness.")


class Reward:
    """The configured parts, found and ready."""

    def __init__(self, config: RewardConfig) -> None:
        """Find the functions.

        Raises:
            ConfigError: There is no such function.
        """
        self._parts: dict[str, tuple[Callable[..., float], float, dict[str, Any]]] = {}
        for name, part in config.parts.items():
            if not part.function:
                raise ConfigError(f"reward.parts.{name}.function is empty: expected package.module.function.")
            try:
                function = find(part.function)
            except ConfigError as error:
                raise ConfigError(f"reward.parts.{name}: {error}") from error
            self._parts[name] = (function, part.weight, dict(part.options))

    def of(self, sample: Sample, verdict: Verdict) -> Verdict:
        """The judge's verdict with the whole reward, and its parts on the record.

            reward = sum_k weight_k part_k(sample, verdict)

        What was not judged gets no reward and no parts.

        Raises:
            ValueError: A part, or the sum, is no finite number.
        """
        if not verdict.outcome.is_judgement:
            return replace(verdict, reward=0.0)
        values: dict[str, float] = {}
        for name, (function, _, options) in self._parts.items():
            values[name] = float(function(sample, verdict, **options))
            if not math.isfinite(values[name]):
                raise ValueError(f"reward part {name} is {values[name]}; expected a finite number")
        total = sum(weight * values[name] for name, (_, weight, _) in self._parts.items())
        if not math.isfinite(total):
            raise ValueError(f"the reward is {total}; expected a finite number, made of {values}")
        return replace(verdict, reward=total, parts=values)
