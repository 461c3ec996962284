"""Units behind a number: which are the same, and how they convert.

A unit that is not in the table, such as `apples`, is a label: it equals itself, singular or plural, and nothing else.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

_TABLE: dict[str, tuple[str, Fraction]] = {}
"""Spelling -> (dimension, factor to that dimension's first unit)."""


def _define(dimension: str, factor: str, spellings: str) -> None:
    for spelling in spellings.split():
        _TABLE[spelling] = (dimension, Fraction(factor))


_define("length", "1", "m meter metre")
_define("length", "1/100", "cm centimeter centimetre")
_define("length", "1/1000", "mm millimeter millimetre")
_define("length", "1000", "km kilometer kilometre")
_define("length", "0.0254", "in inch inche")
_define("length", "0.3048", "ft foot feet")
_define("length", "0.9144", "yd yard")
_define("length", "1609.344", "mi mile")
_define("mass", "1", "g gram gm")
_define("mass", "1000", "kg kilogram kilo")
_define("mass", "1/1000", "mg milligram")
_define("weight", "1", "lb pound")
_define("weight", "1/16", "oz ounce")
_define("time", "1", "s sec second")
_define("time", "60", "min minute")
_define("time", "3600", "h hr hour")
_define("time", "86400", "day")
_define("time", "604800", "week wk")
_define("year", "1", "year yr")
_define("year", "1/12", "month")
_define("volume", "1", "L l liter litre")
_define("volume", "1/1000", "mL ml milliliter millilitre")
_define("gallon", "1", "gal gallon")
_define("gallon", "1/4", "qt quart")
_define("dollar", "1", r"dollar usd buck \dollar")
_define("dollar", "1/100", "cent")
_define("euro", "1", r"euro eur \euro")
_define("sterling", "1", r"sterling gbp \sterling")
_define("yen", "1", r"yen jpy \yen")
_define("rupee", "1", r"rupee inr rs \rupee")
_define("degree", "1", r"degree deg ^\circ ^{\circ} \degree")
_define("radian", "1", "rad radian")
_define("celsius", "1", "celsius °c")
_define("fahrenheit", "1", "fahrenheit °f")
_define("newton", "1", "N newton")
_define("joule", "1", "J joule")
_define("watt", "1", "W watt")
_define("volt", "1", "V volt")
_define("kelvin", "1", "K kelvin")
_define("hertz", "1", "Hz hertz")
_define("erg", "1", "erg")
_define("angstrom", "1", "angstrom")
_define("mole", "1", "mol mole")
_define("percent", "1", "percent percentage pct %")

_SHORTHAND = {"mph": "mi/h", "kph": "km/h", "kmh": "km/h", "fps": "ft/s"}
_PREFIX = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_SUFFIX = {"squared": 2, "cubed": 3}
_NO_UNIT = {"unit", "", "of", "the", "a", "each", "total", "in", "all", "about", "long", "away", "left"}
_NEVER = {
    "not", "no", "or", "and", "maybe", "perhaps", "probably", "possibly", "wrong", "incorrect", "false", "if", "unless",
    "except", "but", "otherwise", "nor", "than", "least", "most", "more", "fewer", "less", "approximately", "around",
    "mod", "modulo", "base", "because", "since", "when", "where", "is", "are", "was", "to", "plus", "minus", "times",
    "over", "by", "either", "neither", "versus", "vs", "up", "almost", "nearly",
}  # fmt: skip
"""Words that make a number another statement: behind them there is no unit."""

SCALES = {
    "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12
}  # fmt: skip
LETTERS = frozenset(["m", "g", "s", "h", "L", "l", "N", "J", "W", "V", "K"]) | {"in", "mg", "mi", "rs", "gm"}
"""Units that, without a `\text{}` around them, may as well be variables."""

_WORD = re.compile(r"\\?[A-Za-z°]+|\^\s*\{?\s*\\circ\s*\}?|\^\s*\{?\s*(-?[0-9])\s*\}?|/|[^\s]")


@dataclass(frozen=True, slots=True)
class Unit:
    """A product of powers of dimensions, and the factor to their first units; percent is a unit of its own kind."""

    dimensions: tuple[tuple[str, int], ...]
    factor: Fraction = Fraction(1)

    def times(self, other: "Unit") -> "Unit":
        """The product of two units of other dimensions: dollars, and per hour."""
        return Unit(tuple(sorted(self.dimensions + other.dimensions)), self.factor * other.factor)


PERCENT = Unit((("percent", 1),))
NO_UNIT = Unit(())


def is_unit_word(word: str) -> bool:
    """Whether the word is in the table, singular or plural."""
    return _look_up(word) is not None or word.lower() in _SHORTHAND or word.lower() in (*_PREFIX, "per")


def read_unit(text: str) -> Unit | None:
    r"""The unit that the text spells, `NO_UNIT` for `units` and the like; None if it is something else.

    Args:
        text: All that stands behind the number, with `\text{...}` taken off: `cm^2`, `miles per hour`, `square feet`.
    """
    dimensions: dict[str, int] = {}
    factor = Fraction(1)
    sign, power, words = 1, 1, 0
    last: tuple[str, int, Fraction] | None = None
    for found in _WORD.finditer(text.replace(".", "").replace("\\%", "%")):
        word = found[0].replace(" ", "")
        name = word.lower()
        if found[1] is not None or name in _SUFFIX:
            if last is None:
                return None
            exponent = int(found[1]) if found[1] is not None else _SUFFIX[name]
            dimension, sense, one = last
            dimensions[dimension] += sense * (exponent - 1)
            factor *= one ** (sense * (exponent - 1))
            last = None
        elif name in ("/", "per", "an"):
            sign = -1
        elif name in _PREFIX:
            power = _PREFIX[name]
        elif name in _NEVER:
            return None
        elif name.removesuffix("s") in _NO_UNIT:
            last = None
        else:
            words += 1
            dimension, one = _dimension(word, after=last)
            if words > 4 or not dimension:
                return None
            if dimension in ("celsius", "fahrenheit"):
                dimensions.pop("degree", None)
            dimensions[dimension] = dimensions.get(dimension, 0) + sign * power
            factor *= one ** (sign * power)
            last, power = (dimension, sign, one), 1
            if name in _SHORTHAND:
                dimensions.pop(dimension)
                distance, _, time = _SHORTHAND[name].partition("/")
                dimensions |= {"length": 1, "time": -1}
                factor *= _TABLE[distance][1] / _TABLE[time][1]
    return Unit(tuple(sorted((name, power) for name, power in dimensions.items() if power)), factor)


def _dimension(word: str, *, after: tuple[str, int, Fraction] | None) -> tuple[str, Fraction]:
    if after is not None and after[0] == "degree" and word.upper() in ("C", "F"):
        return {"C": "celsius", "F": "fahrenheit"}[word.upper()], Fraction(1)
    known = _look_up(word)
    if known is not None:
        return known
    label = word.lower()
    # A label of one letter is a variable, and one with a sign in it is no word.
    return (
        (label.removesuffix("s"), Fraction(1))
        if len(label) > 1 and label.isalpha() and label.isascii()
        else ("", Fraction(1))
    )


def _look_up(word: str) -> tuple[str, Fraction] | None:
    for spelling in (word, word.lower(), word.lower().removesuffix("s")):
        if spelling in _TABLE and not (len(spelling) == 1 and spelling != word):
            return _TABLE[spelling]
    return None
