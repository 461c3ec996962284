r"""Whether an answer is the reference: what kind of thing each is decides which comparison is fair.

The rules, in short. A number needs the same value, exactly: 0.3333 is not 1/3, and a rounded reference takes no other
rounding. Units may be left out or added, but two units must agree. A point keeps its order, a list or set does not; a
list never stands for one of its items, nor an item for the list. An interval's ends must be open or closed as in the
reference; an inequality is the interval it describes. What neither our reading nor math-verify understands is compared
as text.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from delta.rewards.comparison import same
from delta.rewards.kinds import Reading, Words
from delta.rewards.normalization import MAX_LENGTH, is_small, normalize, plain, unwrap
from delta.rewards.readings import read, read_cached
from delta.rewards.symbolic import math_verify_agrees, math_verify_reads


@dataclass(frozen=True, slots=True)
class _Gold:
    text: str
    key: str
    number: Fraction | None


def equivalent(given: str, answer: str, *, shortcuts: bool = True) -> bool:
    """Whether a given answer is mathematically the reference answer.

    Args:
        given: The final answer of a response, without its mark.
        answer: The reference, plain or LaTeX, with or without `$`.
        shortcuts: Compare spellings and plain numbers first, and remember what was read. Without them the verdict is
            the same and takes longer; tests compare the two.
    """
    if len(given) > MAX_LENGTH or not is_small(given):
        return given.strip() == answer.strip()
    gold = _gold(answer) if shortcuts else _prepare(answer)
    key = normalize(given)
    if not key or not gold.key:
        return False
    if shortcuts:
        if key == gold.key:
            return True
        number = _plain_number(key)
        if number is not None and gold.number is not None:
            return number == gold.number
    return _equivalent_keys(key, gold, read_cached if shortcuts else read)


def readable(answer: str) -> bool:
    """Whether a reference can be compared as what it means, and not only as text."""
    if not answer.strip() or not is_small(answer):
        return False
    key = normalize(answer)
    return read_cached(key) is not None or math_verify_reads(key)


def _equivalent_keys(key: str, gold: _Gold, reader: Callable[[str], Reading | None]) -> bool:
    if key == gold.key:
        return True
    expected = reader(gold.key)
    found = reader(key)
    if expected is None:
        return _same_text(key, gold.key) or math_verify_agrees(key, gold.key)
    if isinstance(expected, Words) or (isinstance(found, Words | None) and _CHOICE_LETTER.fullmatch(gold.key)):
        return _same_words(plain(gold.key), key)
    if _CHOICE_LETTER.fullmatch(gold.key) and _CHOSEN.match(key):
        return _same_words(plain(gold.key), key)
    if isinstance(found, Words) and unwrap(key) == gold.key:
        return True
    return found is not None and same(expected, found)


@lru_cache(maxsize=4096)
def _gold(answer: str) -> _Gold:
    return _prepare(answer)


def _prepare(answer: str) -> _Gold:
    key = normalize(answer) if is_small(answer) else answer.strip()
    return _Gold(answer, key, _plain_number(key))


def _plain_number(key: str) -> Fraction | None:
    """The exact value of an integer or decimal as most answers are; None for everything else."""
    digits = key[1:] if key[:1] in ("-", "+") else key
    whole, _, decimals = digits.partition(".")
    # isdigit() alone is true of the digits of other scripts.
    if len(key) > 64 or not digits.isascii() or not whole.isdigit() or not (decimals.isdigit() or not decimals):
        return None
    return Fraction(key) if decimals or digits == whole else None


def _same_text(key: str, gold: str) -> bool:
    key, gold = unwrap(key), unwrap(gold)
    if "\\" in gold or not any(word.isalpha() and len(word) > 2 for word in gold.split()):
        return key.replace(" ", "") == gold.replace(" ", "")
    return plain(key) == plain(gold)


def _same_words(expected: str, key: str) -> bool:
    words = plain(key)
    if words == expected:
        return True
    if len(expected) > 1:
        return False
    choice = _CHOICE.match(words)
    return choice is not None and choice[1] == expected and not _HEDGE.search(choice[2])


_CHOICE_LETTER = re.compile("[A-J]")
_CHOSEN = re.compile(r"\([A-J]\)\s")
_CHOICE = re.compile(r"\(?([a-z])\)\s*(.*)", re.DOTALL)
_HEDGE = re.compile(r"\([a-z]\)|\b(?:or|and|not|maybe)\b")
