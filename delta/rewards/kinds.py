"""The kinds of answers: numbers with units, words, points, intervals, sets, matrices, equations.

`readings` makes them of text, `comparison` compares them.
"""

from dataclasses import dataclass
from enum import Enum

from delta.rewards.expressions import Tree, negative
from delta.rewards.units import Unit


class Kind(Enum):
    """How several things are put together."""

    listing = "list"
    """1, 2 or `1 \text{ or } 2`: in any order, each as often as it is written."""
    tuple = "tuple"
    """(1, 2), a point or an open interval: in this order."""
    set = "set"
    """{1, 2}: in any order, repetitions do not count."""
    union = "union"
    difference = "difference"
    conjunction = "conjunction"


@dataclass(frozen=True, slots=True)
class Scalar:
    """An expression, its unit if it has one, and a second reading of `12 m`, as metres rather than 12 times m."""

    tree: Tree
    unit: Unit | None = None
    measured: "Scalar | None" = None


@dataclass(frozen=True, slots=True)
class Words:
    """An answer in words, such as a name, `even` or the letter of a choice."""

    text: str


@dataclass(frozen=True, slots=True)
class Numeral:
    """Digits in a base that is written with them: 2516_8."""

    digits: str
    base: int


@dataclass(frozen=True, slots=True)
class Colon:
    """A ratio 3:2, or a time 10:30."""

    parts: "tuple[Reading, ...]"
    is_time: bool
    half_day: str = ""


@dataclass(frozen=True, slots=True)
class Several:
    """A list, tuple, set or union of readings."""

    kind: Kind
    items: "tuple[Reading, ...]"


@dataclass(frozen=True, slots=True)
class Interval:
    """All numbers between two; open where the end does not belong to it."""

    low: Scalar
    high: Scalar
    low_open: bool
    high_open: bool


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of numbers or expressions; a column has rows of one."""

    rows: tuple[tuple[Scalar, ...], ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """A chain such as y = 2x + 1 or 1 < x <= 2: its sides, and the signs between them."""

    sides: "tuple[Reading, ...]"
    signs: tuple[str, ...]


Reading = Scalar | Words | Numeral | Colon | Several | Interval | Matrix | Relation

_INFINITY: Tree = ("constant", "infinity")
REALS = Interval(Scalar(negative(_INFINITY)), Scalar(_INFINITY), True, True)
