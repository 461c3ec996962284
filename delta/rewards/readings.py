r"""What kind of thing an answer is: a number with its unit, a point, an interval, a set, a matrix, an equation, a word.

Reading is decided by how the answer is written and never by what it is compared with, so a verdict depends on nothing
but the two texts.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from itertools import product

from delta.rewards.expressions import is_word, negative, read_expression, symbols_of
from delta.rewards.kinds import (
    REALS,
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
from delta.rewards.normalization import is_small, plain
from delta.rewards.tokens import FUNCTIONS, Token, UnreadableError, depths, spell, split, tokenize
from delta.rewards.units import LETTERS, NO_UNIT, PERCENT, SCALES, Unit, is_unit_word, read_unit

MAX_ITEMS = 100
MAX_SIGNS = 4

RELATIONS = frozenset(["=", "<", ">", "le", "ge", "ne", "approx", "in", "equiv"])
_COMMAS = frozenset([",", ";"])
_JOINTS = frozenset([",", ";", "or", "and", "&", "\\&"])
_BASE_WORDS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "twelve": 12}


def read(text: str) -> Reading | None:
    """What a normalized answer is; None if it is nothing that we know.

    Args:
        text: What `normalization.normalize` returned.
    """
    if not text or not is_small(text):
        return None
    try:
        return _answer(tokenize(text))
    except (UnreadableError, ZeroDivisionError, OverflowError):
        return None


@lru_cache(maxsize=4096)
def read_cached(text: str) -> Reading | None:
    """`read`, remembered: a gold answer is met once for each rollout of its group."""
    return read(text)


def _answer(tokens: list[Token]) -> Reading:
    grouped = _thousands(tokens)
    if grouped is not None:
        return grouped
    parts, joints = split(_join_text(tokens), _JOINTS)
    parts_read = [part for part in parts if part]
    if not parts_read or len(parts_read) > MAX_ITEMS:
        raise UnreadableError("nothing, or too much")
    if len(parts_read) == 1:
        return _element(parts_read[0])
    items = tuple(_flat(_element(part) for part in parts_read))
    ranges = all(isinstance(item, Relation) and set(item.signs) & {"<", ">", "le", "ge"} for item in items)
    if ranges and "or" in joints:
        return Several(Kind.union, items)
    if ranges and len(items) == 2:
        return Several(Kind.conjunction, items)
    return Several(Kind.listing, items)


def _join_text(tokens: list[Token]) -> list[Token]:
    r"""Make upright text that joins, as in `1 \text{ or } 2`, a joint like the plain word."""
    joined = []
    for token in tokens:
        words = token.text.strip(" ,;").lower()
        joined.append(Token("word", words, True) if token.kind == "text" and words in ("or", "and") else token)
    return joined


def _flat(items: "Iterator[Reading] | list[Reading]") -> Iterator[Reading]:
    for item in items:
        if isinstance(item, Several) and item.kind is Kind.listing:
            yield from item.items
        else:
            yield item


def _thousands(tokens: list[Token]) -> Reading | None:
    """1,234,567 as one number; with spaces, in brackets or in groups of other sizes commas separate items."""
    start = 1 if tokens and tokens[0].text in ("-", "+", "dollar", "euro", "sterling", "yen", "rupee") else 0
    start += 1 if start and len(tokens) > 1 and tokens[1].text in ("-", "dollar") else 0
    end = start
    while end + 2 < len(tokens) and tokens[end + 1].text == "," and not tokens[end + 1].spaced:
        digits = tokens[end + 2].text.partition(".")[0]
        if tokens[end + 2].spaced or len(digits) != 3 or not digits.isdigit():
            break
        end += 2
    first = tokens[start].text if start < len(tokens) else ""
    if end == start or not (first.isdigit() and len(first) <= 3) or first.startswith("0"):
        return None
    rest = tokens[end + 1 :]
    if any(token.text in _COMMAS for token in rest):
        return None
    digits = "".join(token.text for token in tokens[start : end + 1 : 2])
    return _answer([*tokens[:start], Token("number", digits), *rest])


def _element(tokens: list[Token]) -> Reading:
    if any(token.text in ("pm", "mp") for token in tokens):
        return Several(Kind.listing, tuple(_flat([_element(variant) for variant in _signs_chosen(tokens)])))
    parts, signs = split(tokens, RELATIONS)
    if not signs:
        return _value(tokens)
    if not parts[0] and len(parts) == 2 and signs[0] in ("=", "approx"):
        return _value(parts[1])
    return Relation(tuple(_value(part) for part in parts), tuple(signs))


def _signs_chosen(tokens: list[Token]) -> Iterator[list[Token]]:
    r"""The answers that \pm stands for: \mp goes with the \pm before it, each further \pm is chosen freely."""
    places = [place for place, token in enumerate(tokens) if token.text == "pm"]
    tied = any(token.text == "mp" for token in tokens)
    if len(places) > MAX_SIGNS:
        raise UnreadableError("too many signs to choose")
    for signs in [("+",) * len(places), ("-",) * len(places)] if tied else product("+-", repeat=len(places)):
        chosen = list(tokens)
        for place, sign in zip(places, signs, strict=True):
            chosen[place] = Token("sign", sign)
        other = "-" if not signs or signs[0] == "+" else "+"
        yield [Token("sign", other) if token.text == "mp" else token for token in chosen]


def _value(tokens: list[Token]) -> Reading:
    if not tokens:
        raise UnreadableError("nothing")
    for attempt in (_set_operation, _bracketed, _matrix, _colon, _numeral, _words):
        found = attempt(tokens)
        if found is not None:
            return found
    return _scalar(tokens)


def _set_operation(tokens: list[Token]) -> Reading | None:
    tokens = [
        Token("command", "cup") if token.text in ("U", "u") and _between_brackets(tokens, place) else token
        for place, token in enumerate(tokens)
    ]
    parts, signs = split(tokens, frozenset(["cup", "setminus"]))
    if not signs:
        return None
    if set(signs) == {"cup"}:
        return Several(Kind.union, tuple(_value(part) for part in parts))
    if signs == ["setminus"]:
        return Several(Kind.difference, tuple(_value(part) for part in parts))
    raise UnreadableError("mixed set operations")


def _between_brackets(tokens: list[Token], place: int) -> bool:
    return 0 < place < len(tokens) - 1 and tokens[place - 1].text in (")", "]") and tokens[place + 1].text in ("(", "[")


def _bracketed(tokens: list[Token]) -> Reading | None:
    first, last = tokens[0].text, tokens[-1].text
    if len(tokens) == 1 and tokens[0].kind == "command" and first in ("reals", "emptyset"):
        return REALS if first == "reals" else Several(Kind.set, ())
    if first == "]" or (last == "[" and len(tokens) > 2):
        # The French way to write open ends.
        parts, _ = split(tokens[1:-1], _COMMAS)
        return (
            _interval(parts, first == "]", last == "[") if len(parts) == 2 and first in "[]" and last in "[]" else None
        )
    if tokens[0].kind == "word" and len(first) == 1 and len(tokens) > 3 and tokens[1].text in "([" and last == "]":
        # A variable and its interval, the sign between them lost.
        return _bracketed(tokens[1:])
    if not _encloses_all(tokens):
        return None
    parts, _ = split(_join_text(tokens[1:-1]), _COMMAS)
    if first == "\\{" and any(token.text in ("|", ":") for token in tokens):
        # {x | x > 2} is what its condition says.
        (head, *conditions), _ = split(tokens[1:-1], frozenset(["|", ":"]))
        if len(conditions) == 1 and head and len(spell(head[:1])) == 1 and (len(head) == 1 or head[1].text == "in"):
            return _answer(conditions[0])
        raise UnreadableError("a set by its condition")
    if first == "\\{" or (first == "{" and len(parts) > 1):
        return Several(Kind.set, tuple(_flat(_element(part) for part in parts)) if parts[0] else ())
    if len(parts) == 1:
        return _value(tokens[1:-1]) if first == "(" and last == ")" else None
    if len(parts) > MAX_ITEMS or last not in (")", "]", "rangle"):
        raise UnreadableError("brackets that do not match")
    if len(parts) == 2 and "[]".find(first) + "[]".find(last) > -2:
        return _interval(parts, first == "(", last == ")")
    return Several(Kind.tuple, tuple(_element(part) for part in parts))


def _encloses_all(tokens: list[Token]) -> bool:
    return (
        len(tokens) > 1
        and tokens[0].text in ("(", "[", "\\{", "{", "langle")
        and tokens[-1].text in (")", "]", "\\}", "}", "rangle")
        and all(depth > 0 for depth in depths(tokens)[1:-1])
    )


def _interval(parts: list[list[Token]], low_open: bool, high_open: bool) -> Interval:
    low, high = (_scalar(part) for part in parts)
    return Interval(low, high, low_open, high_open)


def _matrix(tokens: list[Token]) -> Reading | None:
    start = next((place for place, token in enumerate(tokens) if token.text == "begin"), None)
    if start is None:
        return None
    end = next((place for place, token in enumerate(tokens) if token.text == "end"), len(tokens))
    name, body = _environment(tokens[start + 1 : end])
    transposed = spell(tokens[end + 4 :]).replace("{", "").replace("}", "").replace(" ", "") in ("^T", "^\\top", "^t")
    if name not in ("pmatrix", "bmatrix", "matrix", "smallmatrix", "array") or not (
        transposed or len(tokens) <= end + 5
    ):
        raise UnreadableError(name)
    rows_tokens, _ = split(body, frozenset(["\\\\"]))
    rows = [split(row, frozenset(["&"]))[0] for row in rows_tokens if row]
    if any(not cell for row in rows for cell in row):
        raise UnreadableError("an empty cell")
    if sum(len(row) for row in rows) > MAX_ITEMS or len({len(row) for row in rows}) != 1:
        raise UnreadableError("a matrix that is too large or ragged")
    cells = tuple(tuple(_scalar(cell) for cell in row) for row in rows)
    factor = [token for token in tokens[:start] if token.text not in ("*", "(", "[")]
    if factor:
        scale = negative(("number", Fraction(1))) if [t.text for t in factor] == ["-"] else read_expression(factor)
        cells = tuple(tuple(replace(cell, tree=("product", scale, cell.tree)) for cell in row) for row in cells)
    return Matrix(tuple(zip(*cells, strict=True)) if transposed else cells)


def _environment(tokens: list[Token]) -> tuple[str, list[Token]]:
    r"""The name in `{pmatrix} ...`, and the tokens behind it; `array` has its columns first."""
    if len(tokens) < 3 or tokens[0].text != "{" or tokens[2].text != "}":
        raise UnreadableError("an environment without a name")
    name, body = tokens[1].text, tokens[3:]
    if name == "array":
        close = next((place for place, token in enumerate(body) if token.text == "}"), 0)
        body = body[close + 1 :]
    return name, body


def _colon(tokens: list[Token]) -> Reading | None:
    parts, signs = split(tokens, frozenset([":", "to"]))
    if not signs:
        return None
    half_day = ""
    last = parts[-1]
    label = "".join(letter for letter in spell(last[1:]).lower() if letter.isalpha()).removeprefix("text")
    if len(last) > 1 and label in ("am", "pm"):
        half_day, parts[-1] = label, last[:1]
    is_time = len(parts[-1]) == 1 and len(parts[-1][0].text) == 2 and parts[-1][0].text.isdigit()
    return Colon(tuple(Scalar(read_expression(part)) for part in parts), is_time, half_day)


def _numeral(tokens: list[Token]) -> Reading | None:
    place = next((place for place, token in enumerate(tokens) if token.text == "_" or token.text.lower() == "base"), 0)
    text = "".join(token.text for token in tokens[:place] if token.text not in ("(", ")", "{", "}"))
    subscript = "".join(word for word in spell(tokens[place + 1 :]).lower() if word not in "{}() ").removeprefix("base")
    base = int(subscript) if re.fullmatch("[0-9]{1,2}", subscript) else _BASE_WORDS.get(subscript, 0)
    # Letters are digits in large bases only, and in capitals: 2r_0 is a product.
    if not place or not 2 <= base <= 36 or not re.fullmatch("[0-9A-Z]{1,200}" if base > 10 else "[0-9]{1,200}", text):
        return None
    if any(int(digit, 36) >= base for digit in text):
        raise UnreadableError("digits that the base does not have")
    return Numeral(text.lstrip("0") or "0", base)


def _words(tokens: list[Token]) -> Reading | None:
    letters = [token for token in tokens if token.kind in ("text", "word")]
    others = [token for token in tokens if token.kind not in ("text", "word")]
    if not letters or any(token.text not in ("(", ")", "-", "'", ".", "!", "?") for token in others):
        return None
    has_word = any(token.kind == "text" or is_word(token.text) for token in letters)
    return Words(plain(spell(tokens))) if has_word else None


def _scalar(tokens: list[Token]) -> Scalar:
    start, currency = 0, None
    signs = 1 if tokens[0].text in ("-", "+") else 0
    if len(tokens) > signs and tokens[signs].text in ("dollar", "euro", "sterling", "yen", "rupee"):
        currency, start = read_unit("\\" + tokens[signs].text), signs + 1
        tokens = [*tokens[:signs], *tokens[start:]]
    end, unit = _unit_behind(tokens)
    scale = 1
    while end > 1 and tokens[end - 1].text.strip().lower().removesuffix("s") in SCALES:
        end -= 1
        scale *= SCALES[tokens[end].text.strip().lower().removesuffix("s")]
    tree = read_expression(tokens[:end])
    if scale != 1:
        tree = ("product", tree, ("number", Fraction(scale)))
    if currency is not None and unit not in (None, NO_UNIT, currency):
        unit = currency = currency.times(unit)
    scalar = Scalar(tree, currency or (unit if unit != NO_UNIT else None))
    if unit is None and currency is None:
        scalar = replace(scalar, measured=_measured(tokens))
    return scalar


def _unit_behind(tokens: list[Token]) -> tuple[int, Unit | None]:
    """Where the number ends, and the unit behind it; all tokens and None where there is no unit."""
    around = depths(tokens)
    for place in range(1, len(tokens)):
        if around[place]:
            continue
        kind, text, _ = tokens[place]
        label = text.strip().lower()
        if label.removesuffix("s") in SCALES:
            continue
        degrees = text == "^" and "circ" in (tokens[min(place + k, len(tokens) - 1)].text for k in (1, 2))
        sign = text in ("%", "\\%") or (kind == "command" and text == "dollar") or degrees
        worded = kind == "text" or (
            kind == "word" and (is_word(text) or (is_unit_word(text) and text not in LETTERS and len(text) > 1))
        )
        if (not sign and not worded) or tokens[place - 1].text == "/":
            continue
        if degrees and any(token.text in FUNCTIONS for token in tokens[:place]):
            continue  # the sine of 30 degrees is no number of degrees
        rest = tokens[place:]
        if label.startswith(("per ", "square ", "cubic ")) or sign or worded:
            unit = read_unit(_unit_text(rest))
            if unit is not None:
                return place, unit
            if degrees:
                # Within an expression, as in 2\sin 30^\circ, degrees are a number.
                continue
            raise UnreadableError(f"words behind the number: {spell(rest)}")
    return len(tokens), None


def _unit_text(tokens: list[Token]) -> str:
    return spell([token for token in tokens if token.text not in ("{", "}", "(", ")", "*")])


def _measured(tokens: list[Token]) -> Scalar | None:
    """The second reading of 12 m, where a letter or two behind a number can be a unit."""
    place = next((place for place, token in enumerate(tokens) if token.kind == "word" and token.text in LETTERS), 0)
    if not place or not tokens[place].spaced or tokens[place - 1].kind not in ("number", "sign"):
        return None
    unit = read_unit(_unit_text(tokens[place:]))
    try:
        tree = read_expression(tokens[:place])
    except UnreadableError:
        return None
    return None if unit in (None, NO_UNIT, PERCENT) or symbols_of(tree) else Scalar(tree, unit)
