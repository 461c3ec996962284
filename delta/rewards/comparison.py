r"""Whether one answer is another: what kind of thing each is decides which comparison is fair."""

from collections.abc import Sequence
from fractions import Fraction

from delta.rewards.expressions import Tree, symbols_of
from delta.rewards.kinds import (
    Colon,
    Interval,
    Kind,
    Matrix,
    Numeral,
    Reading,
    Relation,
    Scalar,
    Several,
    Words,
)
from delta.rewards.regions import as_region, same_region
from delta.rewards.units import PERCENT
from delta.rewards.values import approximate, exact_value, proportional, same_value

_MIRRORED = {"=": "=", "<": ">", ">": "<", "le": "ge", "ge": "le", "ne": "ne"}


def same(gold: Reading, given: Reading) -> bool:
    """Whether a reading of an answer is the reference's."""
    if isinstance(gold, Relation):
        return _same_relation(gold, given)
    if (
        isinstance(given, Several)
        and given.kind in (Kind.listing, Kind.set)
        and not isinstance(gold, Several | Interval)
    ):
        given = _only_item(given)
    if isinstance(given, Relation):
        stated = _stated(given)
        if stated is not None:
            return any(same(gold, value) for value in stated)
    if isinstance(gold, Several):
        return _same_several(gold, given)
    if isinstance(gold, Interval):
        return _same_range(gold, given)
    if isinstance(gold, Scalar):
        return _same_as_scalar(gold, given)
    if isinstance(gold, Matrix):
        return _same_matrix(gold, given)
    if isinstance(gold, Colon):
        return _same_colon(gold, given)
    if isinstance(gold, Words) and isinstance(given, Scalar):
        return _is_letter(given, gold.text)
    return gold == given


def _is_letter(scalar: Scalar, text: str) -> bool:
    """Whether a single letter, such as that of a choice, is the one that stands in upright type elsewhere."""
    return scalar.tree[0] == "symbol" and scalar.unit is None and len(text) == 1 and scalar.tree[1].casefold() == text


def _only_item(several: Several) -> Reading:
    """The item of a set {5}; a list is no single answer, not even of one answer twice."""
    return several.items[0] if several.kind is Kind.set and len(several.items) == 1 else several


# Numbers and units


def _same_as_scalar(gold: Scalar, given: Reading) -> bool:
    if isinstance(given, Numeral):
        return gold.unit is None and exact_value(gold.tree) == int(given.digits, given.base)
    if isinstance(given, Colon):
        return _same_colon(given, gold)
    if isinstance(given, Words):
        return _is_letter(gold, given.text)
    return isinstance(given, Scalar) and _same_scalar(gold, given)


def _same_scalar(gold: Scalar, given: Scalar) -> bool:
    if gold.unit is not None and given.unit is not None:
        if gold.unit.dimensions != given.unit.dimensions:
            return False
        return same_value(_times(gold.tree, gold.unit.factor), _times(given.tree, given.unit.factor))
    if given.unit == PERCENT:
        # 50% is a half; behind a reference of 1 or more it is also the answer to a question for percents.
        share = same_value(gold.tree, _times(given.tree, Fraction(1, 100)))
        return share or (_is_one_or_more(gold.tree) and same_value(gold.tree, given.tree))
    if gold.unit == PERCENT and same_value(_times(gold.tree, Fraction(1, 100)), given.tree):
        return True
    if same_value(gold.tree, given.tree):
        return True
    if given.measured is not None and not symbols_of(gold.tree):
        return _same_scalar(gold, given.measured)
    # A reference of 12 m may mean metres only if the answer says so.
    return gold.measured is not None and given.unit is not None and _same_scalar(gold.measured, given)


def _times(tree: Tree, factor: Fraction) -> Tree:
    return tree if factor == 1 else ("product", tree, ("number", factor))


def _is_one_or_more(tree: Tree) -> bool:
    value = None if symbols_of(tree) else approximate(tree)
    return value is not None and abs(value) >= 1


def _same_colon(gold: Colon, given: Reading) -> bool:
    first = gold.parts
    if isinstance(given, Scalar) and len(first) == 2 and not gold.is_time and given.unit is None:
        ratio = ("quotient", *(part.tree for part in first if isinstance(part, Scalar)))
        return same_value(ratio, given.tree)
    if not isinstance(given, Colon) or len(given.parts) != len(first):
        return False
    if gold.half_day and given.half_day and gold.half_day != given.half_day:
        return False
    pairs = [
        (a.tree, b.tree)
        for a, b in zip(first, given.parts, strict=True)
        if isinstance(a, Scalar) and isinstance(b, Scalar)
    ]
    if gold.is_time or given.is_time:
        return all(same_value(a, b) for a, b in pairs)
    # 6:4 is 3:2.
    (start, other), *rest = pairs
    return all(same_value(("product", a, other), ("product", b, start)) for a, b in rest)


# Several things


def _same_several(gold: Several, given: Reading) -> bool:
    if gold.kind in (Kind.union, Kind.difference, Kind.conjunction) or isinstance(given, Relation | Interval):
        return _same_range(gold, given)
    if isinstance(given, Matrix):
        return gold.kind is Kind.tuple and _same_matrix(given, gold)
    if isinstance(given, Several) and given.kind in (Kind.union, Kind.difference, Kind.conjunction):
        return _same_range(gold, given)
    if not isinstance(given, Several):
        return gold.kind is Kind.set and len(gold.items) == 1 and same(gold.items[0], given)
    expected, found = _without_names(gold.items, given.items)
    if Kind.set in (gold.kind, given.kind):
        return Kind.tuple not in (gold.kind, given.kind) and _same_set(expected, found)
    if len(expected) != len(found):
        return False
    in_order = all(same(a, b) for a, b in zip(expected, found, strict=True))
    return in_order or (gold.kind is given.kind is Kind.listing and _same_in_any_order(expected, found))


def _same_set(expected: Sequence[Reading], found: Sequence[Reading]) -> bool:
    return all(any(same(item, other) for other in found) for item in expected) and all(
        any(same(item, other) for item in expected) for other in found
    )


def _same_in_any_order(expected: Sequence[Reading], found: Sequence[Reading]) -> bool:
    left = list(found)
    for item in expected:
        place = next((place for place, other in enumerate(left) if same(item, other)), None)
        if place is None:
            return False
        del left[place]
    return True


def _without_names(
    expected: Sequence[Reading], found: Sequence[Reading]
) -> tuple[Sequence[Reading], Sequence[Reading]]:
    """Compare x = 1, x = 2 by value; keep different names, as in x = 1, y = 2, unless the other side has none."""
    names = [[_assigned(item) for item in items] for items in (expected, found)]
    named = [[pair for pair in pairs if pair is not None] for pairs in names]
    values = [
        [item if pair is None else pair[1] for item, pair in zip(items, pairs, strict=True)]
        for items, pairs in zip((expected, found), names, strict=True)
    ]
    distinct = [{repr(pair[0]) for pair in pairs} for pairs in named]
    if all(distinct) and (distinct[0] != distinct[1] or len(distinct[0]) > 1):
        return expected, found
    for side in (0, 1):
        if len(distinct[side]) > 1 and len(named[side]) != len(names[side]):
            return expected, found
    return values[0], values[1]


def _same_matrix(gold: Matrix, given: Reading) -> bool:
    if isinstance(given, Several) and given.kind is Kind.tuple:
        # A point (1, 2) is the column with these entries; a row is not.
        items = [item for item in given.items if isinstance(item, Scalar)]
        return len(items) == len(given.items) and _same_matrix(gold, Matrix(tuple((item,) for item in items)))
    if not isinstance(given, Matrix) or [len(row) for row in gold.rows] != [len(row) for row in given.rows]:
        return False
    return all(
        _same_scalar(a, b)
        for row, other in zip(gold.rows, given.rows, strict=True)
        for a, b in zip(row, other, strict=True)
    )


def _same_range(gold: Reading, given: Reading) -> bool:
    region, other = as_region(gold), as_region(given)
    if region is not None and other is not None:
        return same_region(region, other)
    if isinstance(gold, Interval) and isinstance(given, Interval):
        openness = (gold.low_open, gold.high_open) == (given.low_open, given.high_open)
        return openness and _same_scalar(gold.low, given.low) and _same_scalar(gold.high, given.high)
    if isinstance(gold, Several) and isinstance(given, Several) and gold.kind is given.kind:
        return _same_set(gold.items, given.items)
    return False


# Equations and inequalities


def _assigned(reading: Reading) -> tuple[Reading, Reading] | None:
    """Name and value of an assignment such as x = 5, f(x) = 2x or (x, y) = (1, 2)."""
    if not isinstance(reading, Relation) or reading.signs[0] not in ("=", "in") or not _is_name(reading.sides[0]):
        return None
    stated = _stated(reading)
    return None if stated is None else (reading.sides[0], stated[0])


def _is_name(reading: Reading) -> bool:
    if isinstance(reading, Words):
        return True
    if isinstance(reading, Several):
        return reading.kind is Kind.tuple and all(_is_name(item) for item in reading.items)
    return isinstance(reading, Scalar) and reading.unit is None and _names_only(reading.tree)


def _names_only(tree: Tree) -> bool:
    """A variable, a value of an unknown function, a segment AB, or a sum of such as m + n."""
    if tree[0] == "symbol":
        return True
    if tree[0] == "power":
        return tree[1] in (("symbol", "f"), ("symbol", "g"), ("symbol", "h")) and tree[2] == ("number", Fraction(-1))
    if tree[0] == "call" and tree[1] in ("sin", "cos", "tan"):
        return _names_only(tree[2])
    if tree[0] == "call":
        return (tree[1] not in ("factorial", "floor", "ceil", "binom", "ln", "log", "exp") and len(tree[1]) < 3) or (
            tree[1] == "abs" and _names_only(tree[2])
        )
    return tree[0] in ("sum", "product", "quotient") and all(_names_only(part) for part in tree[1:])


def _stated(relation: Relation) -> tuple[Reading, ...] | None:
    r"""The values that a chain of equations commits to: of x = 1/2 = 0.5 the last; both sides of \approx; else None.

    A chain that contradicts itself commits to nothing, and neither does 2x = 10.
    """
    if not set(relation.signs) <= {"=", "in", "approx"}:
        return None
    sides, signs = list(relation.sides), list(relation.signs)
    if _is_name(sides[0]) and not (len(sides) > 2 and signs[0] == "approx"):
        name = sides.pop(0)
        signs.pop(0)
        if _mentions(sides, name):
            return None
    elif isinstance(sides[0], Scalar) and symbols_of(sides[0].tree) and "approx" not in signs:
        return None
    for left, sign, right in zip(sides, signs, sides[1:], strict=False):
        if sign != "approx":
            agrees = same(left, right)
        else:
            agrees = isinstance(left, Scalar) and isinstance(right, Scalar) and _is_rounding(left.tree, right.tree)
        if not agrees:
            return None
    if "approx" in signs:
        return (sides[signs.index("approx")], sides[-1])
    return (sides[-1],)


def _mentions(sides: Sequence[Reading], name: Reading) -> bool:
    if not isinstance(name, Scalar) or name.tree[0] != "symbol":
        return False
    return any(isinstance(side, Scalar) and name.tree[1] in symbols_of(side.tree) for side in sides)


def _is_rounding(exact: Tree, rounded: Tree) -> bool:
    """Whether a decimal is another number, rounded or cut at the decimal's last place."""
    value = exact_value(rounded)
    close = approximate(exact)
    if value is None or close is None or symbols_of(exact):
        return False
    places = 0
    while places < 12 and (value * 10**places).denominator != 1:
        places += 1
    return abs(Fraction(close) - value) < Fraction(1, 10**places) and (places > 0 or close == float(value))


def _same_relation(gold: Relation, given: Reading) -> bool:
    if gold.signs == ("in",) and _is_name(gold.sides[0]):
        stated = _stated(given) if isinstance(given, Relation) and given.signs == ("in",) else (given,)
        return stated is not None and same(gold.sides[1], stated[0])
    region = as_region(gold)
    if region is not None:
        other = as_region(given)
        return other is not None and same_region(region, other)
    assigned = _assigned(gold)
    if not isinstance(given, Relation):
        return assigned is not None and not isinstance(given, Words) and same(assigned[1], given)
    other_assigned = _assigned(given) or _assigned(_mirror(given))
    if assigned is not None and other_assigned is not None:
        return (assigned[0] == other_assigned[0] and same(assigned[1], other_assigned[1])) or _same_equation(
            gold, given
        )
    if assigned is not None and isinstance(assigned[1], Scalar) and not symbols_of(assigned[1].tree):
        return False
    if gold.signs == given.signs == ("=",):
        return _same_equation(gold, given) or _same_sides(gold, given) or _same_sides(gold, _mirror(given))
    return _same_sides(gold, given) or _same_sides(gold, _mirror(given))


def _same_equation(gold: Relation, given: Relation) -> bool:
    """Whether two equations are one: their sides' differences are proportional, as in 2x = 4y and x - 2y = 0."""
    differences: list[Tree] = []
    for relation in (gold, given):
        left, right = relation.sides[0], relation.sides[-1]
        if len(relation.sides) != 2 or not isinstance(left, Scalar) or not isinstance(right, Scalar):
            return False
        differences.append(("sum", left.tree, ("product", ("number", Fraction(-1)), right.tree)))
    return proportional(*differences)


def _mirror(relation: Relation) -> Relation:
    return Relation(relation.sides[::-1], tuple(_MIRRORED.get(sign, sign) for sign in reversed(relation.signs)))


def _same_sides(gold: Relation, given: Relation) -> bool:
    if gold.signs != given.signs or set(gold.signs) & {"approx"}:
        return False
    return all(same(a, b) for a, b in zip(gold.sides, given.sides, strict=True))
