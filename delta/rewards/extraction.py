r"""Where a response says what its answer is.

The last mark counts: `\boxed{42}` or, as in GSM8K, a line `#### 42`. Without a mark the last sentence of the kind
"the answer is 42" counts, and else the last line, if it holds a single number or piece of mathematics. What is found is
text as the response has it; `normalization` and `readings` make sense of it.
"""

import re

from delta.rewards.normalization import closing_brace

MARKER = "####"
BOX = "\\boxed{"

MAX_PROSE = 4_000
"""Characters at the end of a response in which an unmarked answer is looked for."""

_BOX = re.compile(r"\\f?box(?:ed)?\s*\{")
_HEADING = re.compile(
    r"[\s*_#\d.:]*(?:the\s+)?(?:final|answer|solution|conclusion|result|summary|step|verification|check)\b[^=]*", re.I
)
_ANNOUNCED = re.compile(
    r"(?:final\s+answer|(?:correct\s+|the\s+|my\s+|\A\W*|\n\W*)answers?)(?:\s+to\s+(?:the|this)\s+(?:question|problem))?"
    r"[*_]*\s*(?:is\s*:|is|are|would\s+be|must\s+be|equals|:|=)[*_:]*\s*"
    r"(?:(?:therefore|thus|hence|simply|just|then|indeed|exactly|equal\s+to)\b[,:]?\s*)?",
    re.I,
)
_REASON = re.compile(
    r"[,;]?\s+(?:because|since|as\s+(?:required|desired|well|we|it|the)|which|where|so\s+that|i\.e\.|that\s+is|when|for\s+(?:all|any|every|which)|"
    r"by\s+the|according\s+to|and\s+(?:we|this|I)|I\s+hope)\b.*",
    re.I | re.S,
)
_SENTENCE_END = re.compile(r"[.!?](?:[*_\"')]*)\s+(?=[A-Z*(\\$])|\n")
_SPAN = re.compile(r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|\\\((.+?)\\\)|(?<!\\)\$((?:\\\$|[^$\n])+?)(?<!\\)\$", re.S)
_NUMBER = re.compile(
    r"(?<![\w.,/^])(?:[-+\u2212]\s?)?(?:\\?[$€£]\s?)?[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?(?:/[0-9]+)?\s?(?:\\?%)?(?![\w^]|\.[0-9])"
)
_PROSE = re.compile(r"(?<![\\A-Za-z])(?!sqrt|frac|sin|cos|tan|log|exp)[A-Za-z]{3,}")


def extract_final_answer(response: str, *, require_mark: bool = False) -> str | None:
    r"""The answer that the response commits to, without its mark; None if it commits to none.

    Args:
        response: What the policy wrote.
        require_mark: Accept only `\boxed{...}` and `#### ...`.

    Returns:
        The text of the answer. An empty or unclosed last box commits to nothing, whatever came before it.
    """
    box = _last_box(response)
    marker = _last_marker(response, skip_headings=not require_mark)
    if box is not None and box[0] > marker:
        end = closing_brace(response, box[1])
        return (response[box[1] : end].strip() or None) if end >= 0 else None
    if marker >= 0:
        return response[marker + len(MARKER) :].lstrip().split("\n", 1)[0].strip() or None
    return None if require_mark else _from_prose(response[-MAX_PROSE:])


def _last_box(response: str) -> tuple[int, int] | None:
    """Where the last box starts, and where its content does."""
    found = [(box.start(), box.end()) for box in _BOX.finditer(response)]
    return found[-1] if found else None


def _last_marker(response: str, *, skip_headings: bool) -> int:
    """Where the last `####` stands, or -1. Markdown, too, writes it, before headings such as `#### Final answer`."""
    end = len(response)
    for _ in range(100):
        place = response.rfind(MARKER, 0, end)
        line = response[place + len(MARKER) : place + 200].lstrip().split("\n", 1)[0]
        if place < 0 or not skip_headings or not _HEADING.fullmatch(line):
            return place
        end = place
    return -1


def _from_prose(text: str) -> str | None:
    text = text.rstrip()
    announced = list(_ANNOUNCED.finditer(text))
    if announced:
        rest = text[announced[-1].end() :].lstrip()
        return _sentence(rest)
    lines = [line.strip() for line in text.splitlines() if line.strip(" \t*_-`")]
    if not lines:
        return None
    if re.fullmatch(r"\$\$|\\\]", lines[-1]):
        found = list(_SPAN.finditer(text))
        return _span_text(found[-1]) if found and found[-1].end() == len(text) else None
    return _from_line(lines[-1])


def _sentence(text: str) -> str | None:
    """The rest of an announcing sentence, without reasons given behind the answer."""
    display = _SPAN.match(text)
    end = _SENTENCE_END.search(text, display.end() if display else 0)
    sentence = _REASON.sub("", text[: end.start()] if end else text).strip()
    sentence = re.sub(r"\\boxed\s*", "", sentence)
    spans = list(_SPAN.finditer(sentence))
    if (
        len(spans) == 1
        and not sentence[: spans[0].start()].strip(" *_")
        and not sentence[spans[0].end() :].strip(" .,;:*_")
    ):
        return _span_text(spans[0]) or None
    if spans:
        # "$1$ or $2$" is both, and "$12$ cm" has a unit.
        sentence = _SPAN.sub(lambda span: " " + _span_text(span) + " ", sentence)
    return sentence.lstrip(" ,;:*_`\n").rstrip(" .,;:*_`\n") or None


def _from_line(line: str) -> str | None:
    spans = list(_SPAN.finditer(line))
    if len(spans) == 1:
        return _last_side(_span_text(spans[0])) or None
    if spans:
        return None
    bare = re.sub(r"^(?:[-*•>]\s+|[*_]+)|[*_]+$", "", line).rstrip(".")
    if not _PROSE.search(bare):
        return _last_side(bare) if re.search(r"[0-9]|\\|^\(?[A-J]\)?$|[=+^]", bare) else None
    tail = bare.rpartition("=")[2]
    numbers = _NUMBER.findall(tail)
    return numbers[0].strip() if len(numbers) == 1 else None


def _last_side(mathematics: str) -> str:
    """What stands behind the last `=`, unless all of it is the answer: 3x + 4y = 0, y = 2x + 1."""
    head, equals, tail = mathematics.rpartition("=")
    if not equals or "," in head or head.rstrip().endswith(("\\", "<", ">", "!")):
        return mathematics.strip()
    is_equation = len(set(re.findall(r"(?<![\\A-Za-z])[a-z](?![A-Za-z])", re.sub(r"\\[A-Za-z]+", " ", head)))) > 1
    has_letters = re.search(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", " ", tail))
    return mathematics.strip() if (is_equation or has_letters) and head.count("=") == 0 else tail.strip()


def _span_text(span: re.Match[str]) -> str:
    return next((group for group in span.groups() if group), "").strip()
