"""The vector space in which token gradients are compared: what DelTA needs to know of it, and nothing more.

Coefficients depend on the vectors through weighted sums and inner products alone. So a space may hold its vectors
(`proxy.RowProxy`) or compute with them without ever writing one down (`last_layer.LastLayerProxy`).
"""

from typing import Protocol

import torch
from torch import Tensor


class TokenSpace(Protocol):
    """Vectors of this rank's side-carrying tokens, filled in the old-policy pass."""

    needs_lm_head: bool
    """Whether the sweeps compute logits, so that the LM head has to be at hand."""

    def append(self, hidden: Tensor, log_probs: Tensor, targets: Tensor, advantages: Tensor) -> None:
        """Take in tokens.

        Args:
            hidden: (S, H) input of the LM head at the positions that predict the tokens.
            log_probs: (S,) under the old policy at the sampling temperature, in nats.
            targets: (S,) the tokens.
            advantages: (S,) of their rollouts, none of them 0.
        """

    @property
    def advantages(self) -> Tensor:
        """(S,) float64."""

    @property
    def usable(self) -> Tensor:
        """(S,) bool; a token whose vector is not finite is left out, or it would make every coefficient NaN."""

    def advantage_sums(self) -> Tensor:
        """(2, ...) sums of |A| v over the usable tokens of the sides (+, -)."""

    def sums(self, weights: Tensor) -> Tensor:
        """(2, ...) sums of w v over the usable tokens of the sides (+, -), for (S,) weights of 0 or more."""

    def project(self, direction: Tensor) -> Tensor:
        """(S,) float64 inner products with a vector of the shape that `sums` gives."""

    def squared_norms(self) -> Tensor:
        """(S,) float64."""


class Members:
    """Base of the spaces: who is in them, and whether each token's vector is usable."""

    def __init__(self) -> None:
        """Start empty."""
        self._advantages: list[Tensor] = []
        self._usable: list[Tensor] = []

    def _admit(self, advantages: Tensor, usable: Tensor) -> None:
        """Note further tokens."""
        self._advantages.append(advantages.detach().double())
        self._usable.append(usable)

    @property
    def advantages(self) -> Tensor:
        """(S,) float64."""
        return torch.cat([*self._advantages, *([] if self._advantages else [torch.empty(0, dtype=torch.float64)])])

    @property
    def usable(self) -> Tensor:
        """(S,) bool."""
        return torch.cat([*self._usable, *([] if self._usable else [torch.empty(0, dtype=torch.bool)])])


def side_weights(weights: Tensor, positive: Tensor) -> Tensor:
    """(2, S) weights of the sides (+, -)."""
    return torch.stack([weights * positive, weights * ~positive])
