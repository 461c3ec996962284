r"""Mathematical final answers: find the one a response commits to, and compare it with the reference.

Two spellings commit: a line `#### 42` (GSM8K) and `\boxed{42}`; of several the last one counts. A response with
neither is unparsable. Comparison is by text, then by value where both are plain numbers, and only then by math-verify,
which knows LaTeX, sets, intervals and algebra but takes milliseconds. Nothing here evaluates model text as code.
"""

import re
from fractions import Fraction

from delta.types import Outcome, Verdict

MARKER = "####"
BOX = "\\boxed{"

_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?")
_MAX_NUMBER_LENGTH = 64
_MAX_EXPRESSION_LENGTH = 1_000
"""A longer answer that is not the reference's own text is wrong; parsing it would take seconds."""


def extract_final_answer(response: str) -> str | None:
    """The last answer that the response marks as final, without its mark; None if it marks none."""
    after_marker = response.rfind(MARKER)
    box = response.rfind(BOX)
    if box > after_marker:
        return _braced(response, box + len(BOX))
    if after_marker < 0:
        return None
    answer = response[after_marker + len(MARKER) :].lstrip().split("\n", 1)[0].strip()
    return answer or None


def judge_final_answer(response: str, answer: str) -> Verdict:
    """Score a response against the reference answer: reward 1 if they are mathematically the same, else 0.

    Args:
        response: What the policy wrote.
        answer: The reference, plain or LaTeX, with or without `$`.

    Returns:
        `correct`, `wrong`, or `unparsable` when the response commits to nothing.
    """
    given = extract_final_answer(response)
    if given is None:
        return Verdict(Outcome.unparsable, 0.0, f"no final answer: expected '{MARKER} ...' or '{BOX}...}}'")
    outcome = Outcome.correct if _equivalent(given, answer) else Outcome.wrong
    return Verdict(outcome, float(outcome is Outcome.correct), f"answered {given[:80]!r}, expected {answer[:80]!r}")


def _braced(text: str, start: int) -> str | None:
    """The text from `start` to the brace that closes the one just before it; None if it never closes."""
    depth = 1
    for place in range(start, len(text)):
        if text[place] == "{":
            depth += 1
        elif text[place] == "}":
            depth -= 1
            if depth == 0:
                return text[start:place].strip() or None
    return None


def _equivalent(given: str, answer: str) -> bool:
    if given.strip() == answer.strip():
        return True
    given_number, answer_number = _plain_number(given), _plain_number(answer)
    if given_number is not None and answer_number is not None:
        return given_number == answer_number
    return _math_verify(given, answer)


def _plain_number(text: str) -> Fraction | None:
    """The exact value of an integer or decimal, thousands separators allowed; None for everything else."""
    text = text.strip().strip("$").strip()
    if not text or len(text) > _MAX_NUMBER_LENGTH or not text.isascii() or not _NUMBER.fullmatch(text):
        return None
    digits = text.replace(",", "")
    return Fraction(digits) if any(character.isdigit() for character in digits) else None


def _math_verify(given: str, answer: str) -> bool:
    if len(given) > _MAX_EXPRESSION_LENGTH:
        return False
    # Imported here: sympy takes a second to load, and only verifier workers and odd answers need it.
    from math_verify import parse, verify

    gold = parse(_as_latex(answer))
    return bool(gold) and bool(verify(gold, parse(_as_latex(given))))


def _as_latex(text: str) -> str:
    """Mark the whole text as one expression, which is what a final answer is."""
    return f"${text.strip().strip('$')}$"
