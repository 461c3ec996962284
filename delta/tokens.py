"""Response tokens flattened row after row, and sums over the rows that they belong to.

Padding, packing and micro-batches are gone here: a token knows its row and nothing else of its surroundings. A row is
never split, so sums over a row need no communication.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class OldTokens:
    """What is known of each response token before the first optimizer step of a batch."""

    rows: Tensor
    """(S,) int64, which of these rollouts a token belongs to: 0, 0, 1, 1, 1, ..."""
    places: Tensor
    """(S,) int64, place among the response tokens of the global batch: the same whoever holds the token."""
    advantages: Tensor
    """(S,) of each token's rollout."""
    loss_mask: Tensor
    """(S,) bool, the tokens that carry loss."""
    rollout_log_probs: Tensor
    """(S,) under the engine that sampled them, in nats."""
    log_probs: Tensor
    """(S,) under the learner at the start of the step, in nats: `old_log_probs` of the surrogates."""
    entropy: Tensor
    """(S,) of the next-token distribution at the start of the step, in nats."""
    ref_log_probs: Tensor | None = None
    """(S,) under the reference policy, in nats; None when nothing is measured against one."""

    @property
    def sided(self) -> Tensor:
        """(S,) bool, loss-mask tokens of rollouts with an advantage: the ones that credit tells apart."""
        return self.loss_mask & (self.advantages != 0)

    @property
    def row_tokens(self) -> Tensor:
        """(S,) int64, loss-mask tokens of each token's row."""
        return row_sum(self.loss_mask.long(), self.rows)[self.rows]

    @property
    def loss_rows(self) -> int:
        """Rows with at least one loss-mask token."""
        return int((row_sum(self.loss_mask.long(), self.rows) > 0).sum())


def join(parts: Sequence[OldTokens]) -> OldTokens:
    """One record of several; rows are counted on."""
    joined: dict[str, Tensor | None] = {}
    for field in fields(OldTokens):
        values = [getattr(part, field.name) for part in parts]
        if field.name == "rows":
            first = 0
            for place, rows in enumerate(values):
                values[place] = rows + first
                first += row_count(rows)
        joined[field.name] = None if any(value is None for value in values) else torch.cat(values)
    return OldTokens(**joined)  # type: ignore[arg-type]


def row_count(rows: Tensor) -> int:
    """Rows that (S,) ascending row numbers speak of."""
    return int(rows[-1]) + 1 if len(rows) else 0


def row_sum(values: Tensor, rows: Tensor) -> Tensor:
    """(R,) sum of (S,) values over the tokens of each row; differentiable."""
    return values.new_zeros(row_count(rows)).index_add(0, rows, values)


def row_mean(values: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
    """(R,) mean of (S,) values over the masked tokens of each row; 0 for a row without any; differentiable."""
    counts = row_sum(mask.to(values.dtype), rows)
    return row_sum(torch.where(mask, values, 0.0), rows) / counts.clamp_min(1)
