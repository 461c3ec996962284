"""math-verify, for references that our own reading does not know: sums, integrals, limits, remainders.

It decides nothing else, for it takes milliseconds to minutes, ignores units and bases, and rounds. Text goes through
latex2sympy's grammar only; math-verify's reader of plain expressions evaluates Python and is never used.
"""

import logging
import re
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any

from delta.rewards.normalization import MAX_NESTING

MAX_SYMBOLIC_LENGTH = 200
_HEAVY = re.compile(
    r"[0-9]{5,}|!|binom|operatorname|matrix|\\det|\^[^+\-=,]*\^|\^\s*[{(]*\s*-?[0-9]{3,}|\^\s*\{[^{}]*[+*]|\\[fg]amma|\\exp"
)
"""What is cheap to write and may be dear to work out."""
_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3})")
_COMMAND = re.compile(r"\\[A-Za-z]+")


def math_verify_reads(text: str) -> bool:
    """Whether latex2sympy makes something of the text."""
    return _parse(text) is not None


def math_verify_agrees(given: str, answer: str) -> bool:
    """Whether math-verify finds two normalized answers equal.

    Args:
        given: The final answer; refused if it is heavy, or uses operations that the reference does without.
        answer: The reference.
    """
    operations = set(_COMMAND.findall(given)) & {"\\int", "\\sum", "\\prod", "\\lim", "\\iint", "\\oint"}
    if operations - set(_COMMAND.findall(answer)) or _HEAVY.search(given):
        return False
    gold = _parse(answer)
    found = None if gold is None else _parse(given)
    if found is None:
        return False
    from math_verify import verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    # No time-outs of its own: they need the main thread and the alarm signal, and we are stopped from outside.
    return bool(verify(gold, found, float_rounding=30, numeric_precision=40, timeout_seconds=None))


def _parse(text: str) -> Any:
    if len(text) > MAX_SYMBOLIC_LENGTH or text.count("(") + text.count("{") > MAX_NESTING:
        return None
    try:
        return _reader()(_THOUSANDS.sub("", text))
    except Exception:  # noqa: BLE001  the grammar, its actions and sympy each raise what they like
        return None


@lru_cache(maxsize=1)
def _reader() -> Callable[[str], Any]:
    # Imported here: sympy takes a second to load, and hardly an answer needs it.
    from latex2sympy2_extended.latex2sympy2 import (  # type: ignore[import-untyped]
        ConversionConfig,
        NormalizationConfig,
        _Latex2Sympy,
        normalize_latex,
    )
    from sympy import Rational  # type: ignore[import-untyped]

    class ExactNumbers(_Latex2Sympy):  # type: ignore[misc]
        """The grammar's reader, but for numbers: its own are floats, and go through `eval` on their way."""

        def parse_number(self, text: str) -> Any:
            value = Fraction(text.replace(",", ""))
            return Rational(value.numerator, value.denominator)

    config, normalization = ConversionConfig(lowercase_symbols=False), NormalizationConfig()
    return lambda text: ExactNumbers(config=config).parse(normalize_latex(text, normalization))
