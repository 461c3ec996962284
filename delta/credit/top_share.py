"""The tokens with the highest scores of the global batch: exact, whatever the ranks, with two sums over them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from delta.collectives import AllReduce, alone
from delta.shapes import check_shape

DIGITS = 2**16
"""A float32 is two digits of this base."""


ROUNDING = 1e-6
"""Tokens by which a share of them may be off: 0.07 of 100 is 7, though not in floating point."""


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """Who is in the top share of the global batch."""

    selected: Tensor
    """(S,) bool"""
    count: int
    """Selected tokens of all ranks."""
    candidates: int
    """Candidates of all ranks."""


@torch.no_grad()
def top_share(scores: Tensor, candidates: Tensor, *, share: float, all_reduce: AllReduce = alone) -> Selection:
    """Select the ceil(share * n) highest of the n candidates of all ranks, and whoever ties with the last of them.

    A float32 becomes an integer of the same order, and the threshold is found digit by digit from histograms: of the
    upper 16 bits over all candidates, then of the lower 16 bits over those that share the threshold's upper ones.

    Args:
        scores: (S,) finite where they are candidates.
        candidates: (S,) bool.
        share: In (0, 1].
        all_reduce: Sums over the ranks; called twice, with 65,536 numbers.

    Returns:
        The selection; empty if there is no candidate.
    """
    check_shape(scores, "S")
    check_shape(candidates, "S", S=scores.shape[0])
    keys = _sortable(scores)
    upper, lower = keys // DIGITS, keys % DIGITS
    counts = _histogram(upper[candidates], all_reduce)
    total = int(counts.sum())
    if total == 0:
        return Selection(torch.zeros_like(candidates), 0, 0)
    wanted = max(1, math.ceil(share * total - ROUNDING))
    upper_threshold, above = _threshold(counts, wanted)
    inside = candidates & (upper == upper_threshold)
    counts = _histogram(lower[inside], all_reduce)
    lower_threshold, above_inside = _threshold(counts, wanted - above)
    selected = candidates & ((upper > upper_threshold) | ((upper == upper_threshold) & (lower >= lower_threshold)))
    return Selection(selected, above + above_inside + int(counts[lower_threshold]), total)


def _sortable(scores: Tensor) -> Tensor:
    """(S,) int64 in [0, 2^32), in the order of the scores."""
    bits = (scores.float() + 0.0).view(torch.int32).long()  # adding 0 makes one zero of the two
    return torch.where(bits < 0, -1 - bits, bits + 2**31)


def _histogram(digits: Tensor, all_reduce: AllReduce) -> Tensor:
    return all_reduce(torch.bincount(digits, minlength=DIGITS).double()).long()


def _threshold(counts: Tensor, wanted: int) -> tuple[int, int]:
    """The digit that holds the `wanted`-th highest, and how many are above it."""
    from_top = counts.flip(0).cumsum(0)
    place = int((from_top >= wanted).nonzero()[0])
    above = int(from_top[place - 1]) if place else 0
    return DIGITS - 1 - place, above
