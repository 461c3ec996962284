"""Who computes which rows: mini-batches, ranks, micro-batches. Decides speed and memory, never the result."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Partition:
    """Rows of the global batch, by optimizer step, rank and micro-batch: `micro_batches[update][rank][i]`.

    Every rank has the same number of micro-batches in an update (ZeRO-3's collectives would otherwise wait for ever);
    the ones that fill up are empty.
    """

    micro_batches: tuple[tuple[tuple[Rows, ...], ...], ...]


def partition_rows(
    lengths: NDArray[np.int64], *, updates: int, group_size: int, ranks: int, token_budget: int
) -> Partition:
    """Split the rows of a batch into optimizer steps, then over ranks, then into micro-batches.

    Groups stay together in an update, in batch order and in parts that differ by one group at most: which rows make an
    update depends on nothing but the batch.
    Within an update rows are dealt to ranks longest first, so ranks get equal work, and padded with their like in
    length, so little of it is padding.

    Args:
        lengths: (B,) tokens per row.
        updates: Optimizer steps per batch; fewer if there are fewer groups.
        group_size: G, rows per group.
        ranks: Learner ranks.
        token_budget: Padded tokens of a micro-batch at most; a longer row gets one of its own.

    Returns:
        The partition; each row is in it once.

    Raises:
        ValueError: The rows are not whole groups.
    """
    groups, rest = divmod(len(lengths), group_size)
    if rest:
        raise ValueError(f"{len(lengths)} rows are not groups of {group_size}")
    rows = np.arange(len(lengths)).reshape(groups, group_size)
    return Partition(
        tuple(
            _partition_update(part.flatten(), lengths, ranks, token_budget)
            for part in np.array_split(rows, min(updates, groups))
        )
    )


def _partition_update(
    rows: NDArray[np.int64], lengths: NDArray[np.int64], ranks: int, token_budget: int
) -> tuple[tuple[Rows, ...], ...]:
    ordered = [int(row) for row in rows[np.argsort(-lengths[rows], kind="stable")]]
    per_rank: list[list[Rows]] = []
    for share in _deal(ordered, ranks):
        per_rank.append(_fill(share, lengths, token_budget))
    most = max(len(micro_batches) for micro_batches in per_rank)
    return tuple((*micro_batches, *[()] * (most - len(micro_batches))) for micro_batches in per_rank)


def _deal(ordered: Sequence[int], ranks: int) -> list[list[int]]:
    """Deal rows back and forth (0 1 1 0 0 1 ...), so that no rank always gets the longer one of a pair."""
    shares: list[list[int]] = [[] for _ in range(ranks)]
    for place, row in enumerate(ordered):
        lap, seat = divmod(place, ranks)
        shares[seat if lap % 2 == 0 else ranks - 1 - seat].append(row)
    return shares


def _fill(share: Sequence[int], lengths: NDArray[np.int64], token_budget: int) -> list[Rows]:
    """Cut rows, longest first, into rectangles of at most `token_budget` padded tokens."""
    micro_batches: list[Rows] = []
    start = 0
    while start < len(share):
        size = max(1, token_budget // int(lengths[share[start]]))
        micro_batches.append(tuple(share[start : start + size]))
        start += size
    return micro_batches
