"""Intervals, inequalities and their unions as one thing: disjoint pieces of the number line, from left to right."""

import math
from dataclasses import dataclass

from delta.rewards.expressions import Tree, symbols_of
from delta.rewards.kinds import REALS, Interval, Kind, Reading, Relation, Scalar, Several
from delta.rewards.values import approximate, same_value

_FLIPPED = {"<": ">", ">": "<", "le": "ge", "ge": "le"}


@dataclass(frozen=True, slots=True)
class Region:
    """Pieces of the line, and the variable that an inequality named."""

    pieces: tuple[Interval, ...]
    variable: str | None = None


def as_region(reading: Reading) -> Region | None:
    """The part of the number line that an interval, union or inequality in one variable describes; None for others."""
    if isinstance(reading, Relation):
        return _of_inequality(reading)
    if isinstance(reading, Interval):
        return _normal([reading])
    if not isinstance(reading, Several):
        return None
    if reading.kind is Kind.tuple and len(reading.items) == 2:
        low, high = reading.items
        return (
            _normal([Interval(low, high, True, True)]) if isinstance(low, Scalar) and isinstance(high, Scalar) else None
        )
    if reading.kind is Kind.set:
        points = [Interval(item, item, False, False) for item in reading.items if isinstance(item, Scalar)]
        return _normal(points) if len(points) == len(reading.items) else None
    parts = [as_region(item) for item in reading.items]
    known = [part for part in parts if part is not None]
    names = {part.variable for part in known if part.variable}
    if len(known) < len(parts) or not parts or len(names) > 1:
        return None
    name = names.pop() if names else None
    if reading.kind is Kind.union:
        return _normal([piece for part in known for piece in part.pieces], name)
    if reading.kind is Kind.conjunction:
        return _normal([piece for a in known[0].pieces for b in known[1].pieces for piece in _common(a, b)], name)
    if reading.kind is Kind.difference:
        return _normal([piece for a in known[0].pieces for piece in _without(a, known[1].pieces)], name)
    return None


def same_region(first: Region, second: Region) -> bool:
    """Whether two regions are the same set, and inequalities are about the same variable."""
    if first.variable and second.variable and first.variable != second.variable:
        return False
    return len(first.pieces) == len(second.pieces) and all(
        a.low_open == b.low_open
        and a.high_open == b.high_open
        and same_value(a.low.tree, b.low.tree)
        and same_value(a.high.tree, b.high.tree)
        for a, b in zip(first.pieces, second.pieces, strict=True)
    )


def place_of(tree: Tree) -> float | None:
    """Where a constant lies on the line, infinities included; None for what is no real constant."""
    if tree == REALS.high.tree:
        return math.inf
    if tree == REALS.low.tree:
        return -math.inf
    return None if symbols_of(tree) else approximate(tree)


def _of_inequality(relation: Relation) -> Region | None:
    sides, signs = relation.sides, relation.signs
    if len(sides) > 3 or not all(isinstance(side, Scalar) for side in sides):
        return None
    trees = [side.tree for side in sides if isinstance(side, Scalar)]
    middle = next((place for place, tree in enumerate(trees) if tree[0] == "symbol"), None)
    if middle is None or sum(bool(symbols_of(tree)) for tree in trees) != 1 or (len(sides) == 3 and middle != 1):
        return None
    name = trees[middle][1]
    low, high, low_open, high_open = REALS.low, REALS.high, True, True
    for place, sign in enumerate(signs):
        other = Scalar(trees[place + 1 if place == middle else place])
        sense = sign if place == middle else _FLIPPED.get(sign, sign)
        if sense == "ne" and len(signs) == 1:
            return _normal([Interval(low, other, True, True), Interval(other, high, True, True)], name)
        if sense in ("<", "le"):
            high, high_open = other, sense == "<"
        elif sense in (">", "ge"):
            low, low_open = other, sense == ">"
        else:
            return None
    if (len(signs) == 2 and REALS.low in (low,)) or (len(signs) == 2 and high == REALS.high):
        return None  # 1 < x > 2 bounds one side twice
    return _normal([Interval(low, high, low_open, high_open)], name)


def _normal(pieces: list[Interval], variable: str | None = None) -> Region | None:
    """Sort the pieces, drop the empty ones and join those that touch; None where an end is no real constant."""
    placed = [(place_of(piece.low.tree), place_of(piece.high.tree), piece) for piece in pieces]
    ordered = []
    for low, high, piece in placed:
        if low is None or high is None or low > high:
            return None
        if low < high or not (piece.low_open or piece.high_open):
            ordered.append((low, piece.low_open, piece))
    ordered.sort(key=lambda item: item[:2])
    joined: list[Interval] = []
    for _, _, piece in ordered:
        if joined and _touch(joined[-1], piece):
            joined[-1] = _hull(joined[-1], piece)
        else:
            joined.append(piece)
    return Region(tuple(joined), variable)


def _compare(first: Scalar, second: Scalar) -> int:
    if same_value(first.tree, second.tree):
        return 0
    return -1 if (place_of(first.tree) or 0.0) < (place_of(second.tree) or 0.0) else 1


def _touch(left: Interval, right: Interval) -> bool:
    order = _compare(right.low, left.high)
    return order < 0 or (order == 0 and not (right.low_open and left.high_open))


def _hull(left: Interval, right: Interval) -> Interval:
    low_open = left.low_open and (right.low_open or _compare(left.low, right.low) != 0)
    order = _compare(left.high, right.high)
    if order == 0:
        return Interval(left.low, left.high, low_open, left.high_open and right.high_open)
    top = left if order > 0 else right
    return Interval(left.low, top.high, low_open, top.high_open)


def _common(first: Interval, second: Interval) -> list[Interval]:
    order = _compare(first.low, second.low)
    bottom = first if order > 0 else second
    low_open = (first.low_open or second.low_open) if order == 0 else bottom.low_open
    order = _compare(first.high, second.high)
    top = first if order < 0 else second
    high_open = (first.high_open or second.high_open) if order == 0 else top.high_open
    return [Interval(bottom.low, top.high, low_open, high_open)] if _compare(bottom.low, top.high) <= 0 else []


def _without(piece: Interval, holes: tuple[Interval, ...]) -> list[Interval]:
    left = [piece]
    for hole in holes:
        below = Interval(REALS.low, hole.low, True, not hole.low_open)
        above = Interval(hole.high, REALS.high, not hole.high_open, True)
        left = [part for rest in left for side in (below, above) for part in _common(rest, side)]
    return left
