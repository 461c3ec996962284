"""Whether two expression trees have the same value: exactly as fractions, else to many digits, at several points.

Digits decide soundly here. The working precision grows with the spread of the magnitudes inside an expression, so that
10^40 pi + 1 is not 10^40 pi; and what agrees in 60 digits without being equal is not written by accident. Numbers too
large to work out are unequal to everything but their own spelling, so that towers of powers cost nothing.
"""

import zlib
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache
from math import ceil, comb, factorial, floor, log2
from typing import Any

from delta.rewards.expressions import Tree, symbols_of

MAX_BITS = 1 << 16
"""Of a numerator or denominator: 20,000 digits, enough for 2024^4046."""
MAX_FACTORIAL = 2_000
MAX_MAGNITUDE = 60_000
"""Largest logarithm, to base 10, of a number that is worked out in digits."""
DIGITS = 60
MAX_DIGITS = 1_500
MAX_GAMMA_DIGITS = 150
"""Factorials of fractions take time that grows fast with the digits."""
GUARD_DIGITS = 15
REAL_POINTS, WHOLE_POINTS = 3, 16


class TooLargeError(ArithmeticError):
    """Working the number out would take long, or it is none."""


def same_value(first: Tree, second: Tree) -> bool:
    """Whether the two trees are equal for all values of their variables.

    Variables are taken to be positive where there are several, as physics has them; a single one may be negative, so
    the root of x^2 is not x. Where something is rounded to an integer, they are positive integers.
    """
    if first == second:
        return True
    if _mentions_infinity(first) or _mentions_infinity(second):
        return _signed_infinity(first) == _signed_infinity(second) != 0
    try:
        exact = exact_value(first), exact_value(second)
        if exact[0] is not None and exact[1] is not None:
            return exact[0] == exact[1]
        names = sorted(symbols_of(first) | symbols_of(second))
        return _agree(first, second, {}) if not names else _same_function(first, second, names)
    except (ArithmeticError, ValueError, RecursionError):
        return False


def proportional(first: Tree, second: Tree) -> bool:
    """Whether one tree is a constant, not zero, times the other: 2x - 4 and 6 - 3x, the sides of one equation."""
    names = sorted(symbols_of(first) | symbols_of(second))
    if not names or symbols_of(first) != symbols_of(second):
        return False
    ratio: Any = None
    try:
        for point in _points(first, second, names):
            a, b = (_Digits(DIGITS, point).value(tree) for tree in (first, second))
            if not a or not b:
                return False
            if ratio is None:
                ratio = a / b
            elif abs(a / b - ratio) > abs(ratio) * 10.0 ** (GUARD_DIGITS - DIGITS):
                return False
    except (ArithmeticError, ValueError, RecursionError):
        return False
    return ratio is not None


@lru_cache(maxsize=4096)
def exact_value(tree: Tree) -> Fraction | None:
    """The value as a fraction; None if it is irrational, has variables, or is not seen to be rational.

    Raises:
        TooLargeError: It has too many digits.
        ZeroDivisionError: It has no value.
    """
    kind = tree[0]
    if kind == "number":
        return _bounded(tree[1])
    if kind in ("symbol", "constant"):
        return None
    parts = [exact_value(part) for part in tree[1:] if isinstance(part, tuple)]
    if any(part is None for part in parts):
        return None
    values = [part for part in parts if part is not None]
    if kind == "sum":
        total = Fraction(0)
        for value in values:
            total = _bounded(total + value)
        return total
    if kind == "product":
        product = Fraction(1)
        for value in values:
            product = _bounded(product * value)
        return product
    if kind == "quotient":
        return _bounded(values[0] / values[1])
    if kind == "power":
        return _exact_power(*values)
    return _exact_call(tree[1], values)


def approximate(tree: Tree) -> float | None:
    """A constant's value to the precision of a float, to order endpoints by; None if it has no real one."""
    try:
        value = _Digits(DIGITS, {}).value(tree)
        return float(value.real) if not value.imag else None
    except (ArithmeticError, ValueError, RecursionError):
        return None


def _bounded(value: Fraction) -> Fraction:
    if value.numerator.bit_length() > MAX_BITS or value.denominator.bit_length() > MAX_BITS:
        raise TooLargeError
    return value


def _exact_power(base: Fraction, exponent: Fraction) -> Fraction | None:
    if exponent.denominator != 1:
        return None
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if base in (0, 1, -1):
        # No bits to count; only the parity of the exponent matters.
        exponent = Fraction(exponent.numerator % 2 + 2 * (exponent > 0)) if exponent >= 0 else exponent
        return base ** int(exponent) if abs(exponent) < MAX_BITS else None
    if abs(exponent) * bits > MAX_BITS:
        raise TooLargeError
    return base ** int(exponent)


def _exact_call(name: str, values: list[Fraction]) -> Fraction | None:
    value = values[0]
    if name == "abs":
        return abs(value)
    if name == "floor":
        return Fraction(floor(value))
    if name == "ceil":
        return Fraction(ceil(value))
    if name == "factorial":
        if value.denominator != 1 or value < 0:
            return None
        if value > MAX_FACTORIAL:
            raise TooLargeError
        return Fraction(factorial(int(value)))
    if name == "binom" and values[0].denominator == values[1].denominator == 1 and values[1] >= 0 <= values[0]:
        if values[0] > MAX_BITS:
            raise TooLargeError
        return Fraction(comb(int(values[0]), int(values[1])))
    return None


def _mentions_infinity(tree: Tree) -> bool:
    return tree == ("constant", "infinity") or any(
        _mentions_infinity(part) for part in tree[1:] if isinstance(part, tuple)
    )


def _signed_infinity(tree: Tree) -> int:
    """1 or -1 for plus and minus infinity, 0 for everything else."""
    if tree == ("constant", "infinity"):
        return 1
    return -1 if tree == ("product", ("number", Fraction(-1)), ("constant", "infinity")) else 0


def _agree(first: Tree, second: Tree, point: Mapping[str, Fraction]) -> bool:
    """Whether two trees are equal at a point, in as many digits as their parts are apart and `DIGITS` more."""
    digits = DIGITS
    while True:
        work = _Digits(digits, point)
        a, b = work.value(first), work.value(second)
        needed = DIGITS + work.spread()
        if needed <= digits:
            return bool(abs(a - b) <= work.largest * work.context.mpf(10) ** (GUARD_DIGITS - digits))
        if needed > MAX_DIGITS:
            raise TooLargeError
        digits = needed


def _same_function(first: Tree, second: Tree, names: list[str]) -> bool:
    agreed = 0
    for point in _points(first, second, names):
        try:
            if not _agree(first, second, point):
                return False
        except (ZeroDivisionError, ValueError):
            continue
        agreed += 1
    return agreed >= 2


def _points(first: Tree, second: Tree, names: list[str]) -> list[dict[str, Fraction]]:
    """Where to compare: the same points for the same names, whatever was compared before."""
    if _calls(first) & {"floor", "ceil"} or _calls(second) & {"floor", "ceil"}:
        return [
            {
                name: Fraction(1 + (place * (3 + 2 * order) + order * 7 + place // 4) % 23)
                for order, name in enumerate(names)
            }
            for place in range(WHOLE_POINTS)
        ]
    points = [{name: _generic(name, place) for name in names} for place in range(REAL_POINTS)]
    if len(names) == 1 or "abs" in _calls(first) | _calls(second):
        points.append({name: -_generic(name, REAL_POINTS) for name in names})
    return points


def _generic(name: str, place: int) -> Fraction:
    """A positive number that has no reason to be a root of anything."""
    return Fraction(500 + zlib.crc32(f"{name} {place}".encode()) % 1999, 997)


def _calls(tree: Tree) -> set[str]:
    found = {tree[1]} if tree[0] == "call" else set()
    return found.union(*(_calls(part) for part in tree[1:] if isinstance(part, tuple)))


@lru_cache(maxsize=1)
def _context() -> Any:
    # Imported here: plain numbers, which most answers are, need none of it.
    import mpmath  # type: ignore[import-untyped]

    # Our own context, so that nobody else's precision is touched.
    return mpmath.ctx_mp.MPContext()


class _Digits:
    """Works a tree out to so many digits, and remembers how large its parts were."""

    def __init__(self, digits: int, point: Mapping[str, Fraction]) -> None:
        self.context = _context()
        self.context.dps = digits
        self.digits = digits
        self.point = point
        self.largest = self.smallest = self.context.mpf(1)

    def spread(self) -> int:
        """Decimal orders of magnitude between the largest and the smallest part."""
        return int(self.context.mag(self.largest) * 0.302) - int(self.context.mag(self.smallest) * 0.302) + 2

    def value(self, tree: Tree) -> Any:
        found = self._value(tree)
        if not self.context.isfinite(found):
            raise ZeroDivisionError
        size = abs(found)
        if size:
            magnitude = self.context.mag(size) * 0.302
            if abs(magnitude) > MAX_MAGNITUDE:
                raise TooLargeError
            if size > self.largest:
                self.largest = size
            # What is left of a difference of equal numbers is noise, where 10^-100 is a small number.
            is_sound = tree[0] == "power" and tree[1][0] in ("number", "constant")
            noise = self.largest * self.context.mpf(10) ** (GUARD_DIGITS - self.digits)
            if size < self.smallest and (is_sound or size > noise):
                self.smallest = size
        return found

    def _value(self, tree: Tree) -> Any:
        context, kind = self.context, tree[0]
        if kind == "number":
            _bounded(tree[1])
            # A decimal of a hundred digits is told from pi only by more than a hundred.
            self.smallest = min(self.smallest, context.mpf(1) / tree[1].denominator)
            return context.mpf(tree[1].numerator) / tree[1].denominator
        if kind == "symbol":
            value = self.point[tree[1]]
            return context.mpf(value.numerator) / value.denominator
        if kind == "constant":
            return {"pi": +context.pi, "e": +context.e, "i": context.mpc(0, 1)}[tree[1]]
        values = [self.value(part) for part in tree[1:] if isinstance(part, tuple)]
        if kind == "sum":
            return context.fsum(values)
        if kind == "product":
            return context.fprod(values)
        if kind == "quotient":
            return values[0] / values[1]
        if kind == "power":
            return self._power(*values)
        return self._call(tree[1], values)

    def _power(self, base: Any, exponent: Any) -> Any:
        if not base:
            if exponent.real > 0:
                return base
            raise ZeroDivisionError
        self._check(abs(exponent) * (abs(self.context.mag(base)) + 4), MAX_MAGNITUDE * log2(10))
        return self.context.power(base, exponent)

    def _check(self, size: Any, limit: float) -> None:
        if size > limit:
            raise TooLargeError

    def _call(self, name: str, values: list[Any]) -> Any:
        context, value = self.context, values[0]
        if name in ("factorial", "binom"):
            self._check(max(abs(item) for item in values), MAX_FACTORIAL * 10)
            self._check(self.digits, MAX_GAMMA_DIGITS)
            return context.factorial(value) if name == "factorial" else context.binomial(*values)
        if name == "log":
            return context.log(value) / context.log(values[1] if len(values) > 1 else 10)
        if name in _FUNCTIONS:
            self._check(abs(value), MAX_MAGNITUDE)
            return _FUNCTIONS[name](context, value)
        # An unknown function: any fixed one that is not special in any way.
        constant = zlib.crc32(name.encode()) % 1999 + 1
        return context.sin(value * constant / 997 + 1) + context.mpf(constant) / 313


_FUNCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "abs": lambda context, x: abs(x),
    "floor": lambda context, x: context.floor(x),
    "ceil": lambda context, x: context.ceil(x),
    "ln": lambda context, x: context.log(x),
    "lg": lambda context, x: context.log(x) / context.log(10),
    "exp": lambda context, x: context.exp(x),
    "sin": lambda context, x: context.sin(x),
    "cos": lambda context, x: context.cos(x),
    "tan": lambda context, x: context.tan(x),
    "cot": lambda context, x: context.cot(x),
    "sec": lambda context, x: context.sec(x),
    "csc": lambda context, x: context.csc(x),
    "sinh": lambda context, x: context.sinh(x),
    "cosh": lambda context, x: context.cosh(x),
    "tanh": lambda context, x: context.tanh(x),
    "arcsin": lambda context, x: context.asin(x),
    "arccos": lambda context, x: context.acos(x),
    "arctan": lambda context, x: context.atan(x),
}
