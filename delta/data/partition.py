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


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCost:
    """What a row of n tokens costs, in tokens of a short row: n (1 + n / attention_length)."""

    attention_length: float = np.inf
    """Length at which attention, which grows with the square, costs as much as the rest of the model together."""

    def of(self, lengths: NDArray[np.int64]) -> NDArray[np.float64]:
        """(B,) costs of rows."""
        costs: NDArray[np.float64] = lengths * (1 + lengths / self.attention_length)
        return costs


def partition_rows(
    lengths: NDArray[np.int64],
    *,
    updates: int,
    group_size: int,
    ranks: int,
    token_budget: int,
    packed: bool = True,
    cost: RowCost | None = None,
) -> Partition:
    """Split the rows of a batch into optimizer steps, then over ranks, then into micro-batches.

    Groups stay together in an update, in batch order and in parts that differ by one group at most: which rows make an
    update depends on nothing but the batch.

    Args:
        lengths: (B,) tokens per row.
        updates: Optimizer steps per batch; fewer if there are fewer groups.
        group_size: G, rows per group.
        ranks: Learner ranks.
        token_budget: Tokens of a micro-batch at most, pads included; a longer row gets one of its own.
        packed: Whether a micro-batch holds its rows end to end, or as a rectangle.
        cost: Of a row; by default its length.

    Returns:
        The partition; each row is in it once.

    Raises:
        ValueError: The rows are not whole groups.
    """
    groups, rest = divmod(len(lengths), group_size)
    if rest:
        raise ValueError(f"{len(lengths)} rows are not groups of {group_size}")
    rows = np.arange(len(lengths)).reshape(groups, group_size)
    cost = RowCost() if cost is None else cost
    split = []
    for part in np.array_split(rows, min(updates, groups)):
        members = part.flatten()
        longest_first = members[np.argsort(-lengths[members], kind="stable")]
        if packed:
            split.append(_pack(longest_first, lengths, cost.of(lengths), ranks, token_budget))
        else:
            split.append(_pad([int(row) for row in longest_first], lengths, ranks, token_budget))
    return Partition(tuple(split))


def _pack(
    rows: NDArray[np.int64],
    lengths: NDArray[np.int64],
    costs: NDArray[np.float64],
    ranks: int,
    token_budget: int,
) -> tuple[tuple[Rows, ...], ...]:
    """As few micro-batches per rank as a greedy search gets into the budget, all of them of nearly equal cost.

    ZeRO-3 makes ranks wait for each other in every layer, so the i-th micro-batches of all ranks should take equally
    long, and not only the sums.
    """
    # No fewer can do: a row beyond the budget fills one alone, and two rows above its half do not share one.
    sizes = np.minimum(lengths[rows], token_budget)
    needed = max(1, -(-int(sizes.sum()) // token_budget), int((2 * sizes > token_budget).sum()))
    rounds = -(-needed // ranks)
    while (bins := _fill_bins(rows, lengths, costs, rounds * ranks, token_budget)) is None:
        rounds += 1
    bins.sort(key=lambda members: -sum(costs[list(members)]))
    per_rank: list[list[Rows]] = [[] for _ in range(ranks)]
    for place, members in enumerate(bins):
        lap, seat = divmod(place, ranks)
        per_rank[seat if lap % 2 == 0 else ranks - 1 - seat].append(members)
    return tuple(tuple(micro_batches) for micro_batches in per_rank)


def _fill_bins(
    rows: NDArray[np.int64],
    lengths: NDArray[np.int64],
    costs: NDArray[np.float64],
    count: int,
    token_budget: int,
) -> list[Rows] | None:
    """Each row, longest first, into the cheapest bin that has room; None if one has no room anywhere."""
    bins: list[list[int]] = [[] for _ in range(count)]
    cost = np.zeros(count)
    tokens = np.zeros(count, dtype=np.int64)
    for row in rows:
        room = (tokens + lengths[row] <= token_budget) | (tokens == 0)
        if not room.any():
            return None
        place = int(np.where(room, cost, np.inf).argmin())
        bins[place].append(int(row))
        cost[place] += costs[row]
        tokens[place] += lengths[row]
    return [tuple(members) for members in bins]


def _pad(
    ordered: Sequence[int], lengths: NDArray[np.int64], ranks: int, token_budget: int
) -> tuple[tuple[Rows, ...], ...]:
    """Rows dealt longest first, so ranks get equal work, and padded with their like, so little of it is padding."""
    per_rank = [_rectangles(share, lengths, token_budget) for share in _deal(ordered, ranks)]
    most = max(len(micro_batches) for micro_batches in per_rank)
    return tuple((*micro_batches, *[()] * (most - len(micro_batches))) for micro_batches in per_rank)


def _deal(ordered: Sequence[int], ranks: int) -> list[list[int]]:
    """Deal rows back and forth (0 1 1 0 0 1 ...), so that no rank always gets the longer one of a pair."""
    shares: list[list[int]] = [[] for _ in range(ranks)]
    for place, row in enumerate(ordered):
        lap, seat = divmod(place, ranks)
        shares[seat if lap % 2 == 0 else ranks - 1 - seat].append(row)
    return shares


def _rectangles(share: Sequence[int], lengths: NDArray[np.int64], token_budget: int) -> list[Rows]:
    """Cut rows, longest first, into rectangles of at most `token_budget` padded tokens."""
    micro_batches: list[Rows] = []
    start = 0
    while start < len(share):
        size = max(1, token_budget // int(lengths[share[start]]))
        micro_batches.append(tuple(share[start : start + size]))
        start += size
    return micro_batches
