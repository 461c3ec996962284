"""Overlong shaping: a reward that falls before the token limit cuts the rollout off (DAPO)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from delta.shapes import check_shape


@dataclass(kw_only=True, slots=True)
class ShapingConfig:
    """What is added to the verifier's reward before advantages are computed."""

    overlong_buffer: int = 0
    """Tokens before the limit over which the penalty grows; 0 switches it off. The papers use 4,096 of 20,480."""
    overlong_penalty: float = 1.0
    """Penalty at the limit, in reward units."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.overlong_buffer < 0 or not 0 <= self.overlong_penalty < math.inf:
            raise ValueError(
                f"shaping.overlong_buffer={self.overlong_buffer}, shaping.overlong_penalty={self.overlong_penalty}: "
                "expected 0 or more, finite."
            )


def overlong_penalty(lengths: Tensor, *, limit: int, buffer: int, penalty: float) -> Tensor:
    """What a rollout loses for coming close to the token limit.

        0                                      up to limit - buffer tokens
        penalty (limit - buffer - length) / buffer   from there to -penalty at the limit       DAPO, arXiv:2503.14476

    Args:
        lengths: (N, G) sampled tokens.
        limit: Tokens a rollout may have.
        buffer: Tokens over which the penalty grows; 0 for none.
        penalty: At the limit, in reward units.

    Returns:
        (N, G) float32, from -penalty to 0.
    """
    check_shape(lengths, "N G")
    if buffer == 0:
        return torch.zeros(lengths.shape)
    return penalty * ((limit - buffer - lengths) / buffer).clamp(-1.0, 0.0)
