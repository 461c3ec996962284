"""Whether a program printed what it should: tolerant about white space and the last digits of decimals.

Line ends (CR LF, CR), white space at the ends of lines and empty lines at the end never matter. If the rest differs,
both texts are split at white space and compared word by word: words are the same when their text is, or when both are
numbers, at least one of them written with a point or an exponent, that differ by at most 1e-6, absolute or relative.
Letters are compared exactly. How words are spread over lines does not matter.
"""

import math
import re

TOLERANCE = 1e-6
_DECIMAL = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)


def same_output(printed: str, expected: str) -> bool:
    """Compare a program's standard output with the expected text."""
    if _normal(printed) == _normal(expected):
        return True
    ours, theirs = printed.split(), expected.split()
    return len(ours) == len(theirs) and all(_same_word(a, b) for a, b in zip(ours, theirs, strict=True))


def _normal(text: str) -> str:
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "\n".join(line.rstrip() for line in lines).rstrip("\n")


def _same_word(printed: str, expected: str) -> bool:
    if printed == expected:
        return True
    if max(len(printed), len(expected)) > 400 or not (_DECIMAL.fullmatch(printed) and _DECIMAL.fullmatch(expected)):
        return False
    if not re.search(r"[.eE]", printed + expected):
        return False
    a, b = float(printed), float(expected)
    return math.isfinite(a) and math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
