r"""One spelling for what is written in many: typography, layout commands, delimiters, thousands separators.

Nothing here changes what an answer means. Standard mathematical typography is understood (− × · √ π ∞ ½ x² 90° ≤);
digits and letters of other scripts that merely look like ASCII are left as they are, so that they equal nothing.
"""

import re

# ruff: noqa: RUF001  look-alikes are what this file is about

MAX_LENGTH = 1_000
MAX_NESTING = 40
"""A longer or deeper answer is no final answer: it is compared as text only."""

_SYMBOLS = {
    "−": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "÷": r"\div ", "⁄": "/", "√": r"\sqrt ",
    "π": r"\pi ", "∞": r"\infty ", "°": r"^{\circ}", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ",
    "≠": r"\ne ", "≈": r"\approx ", "±": r"\pm ", "∓": r"\mp ", "∪": r"\cup ", "∈": r"\in ", "∅": r"\emptyset ",
    "ℝ": r"\mathbb{R}", "∖": r"\setminus ", "′": "'", "’": "'", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ",
    "γ": r"\gamma ", "δ": r"\delta ", "ε": r"\epsilon ", "λ": r"\lambda ", "μ": r"\mu ", "ρ": r"\rho ",
    "σ": r"\sigma ", "τ": r"\tau ", "φ": r"\phi ", "ϕ": r"\phi ", "ψ": r"\psi ", "ω": r"\omega ", "Δ": r"\Delta ",
    "Ω": r"\Omega ", "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}",
    "¾": r"\frac{3}{4}", "⅕": r"\frac{1}{5}", "⅖": r"\frac{2}{5}", "⅗": r"\frac{3}{5}", "⅘": r"\frac{4}{5}",
    "⅙": r"\frac{1}{6}", "⅚": r"\frac{5}{6}", "⅛": r"\frac{1}{8}", "⅜": r"\frac{3}{8}", "⅝": r"\frac{5}{8}",
    "⅞": r"\frac{7}{8}", "⟨": r"\langle ", "⟩": r"\rangle ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ",
    "⌉": r"\rceil ", "∠": r"\angle ", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u2002": " ", "\u2003": " ",
    "€": r"\euro ", "£": r"\sterling ", "¥": r"\yen ", "₹": r"\rupee ", "¢": r"\text{cents}",
}  # fmt: skip
_SYMBOL_TABLE = str.maketrans(_SYMBOLS)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_SUPERSCRIPT_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+")
_SUBSCRIPT_RUN = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")

_THOUSANDS = re.compile(r"(?<=[0-9])(?:\{,\}|,\\!\s?|\\,|\{\\,\}|\\;|\\ |\u2009|\u202f)(?=[0-9]{3}(?![0-9]))")
_BRACED_COMMA = re.compile(r"(?<=[0-9])\{,\}(?=[0-9])")
_SPACED_THOUSANDS = re.compile(r"[-+]?[0-9]{1,3}(?: [0-9]{3})+(?:\.[0-9]+)?")

_EMPTY_DELIMITER = re.compile(r"\\(?:left|right|middle)\s*\.")
_LAYOUT = re.compile(
    r"\\(?:left|right|middle|[bB]igg?[lrm]?|displaystyle|textstyle|scriptstyle|limits|nolimits|quad|qquad|enspace"
    r"|thinspace|rm|bf|it|hfill|null|large|Large|LARGE|small|ensuremath|textcolor\s*\{[^{}]*\}|relax|tag\*?\s*\{[^{}]*\}|hspace\*?\s*\{[^{}]*\}|color\s*\{[^{}]*\})(?![A-Za-z])"
)
_SPACING = re.compile(r"(\\\\)|\\[,;:!> \n]|~|\s")
_FRACTION = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_SCIENTIFIC = re.compile(
    r"(?:(?<=^)|(?<=[-+,(\[{=;]))([0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE]([-+]?[0-9]{1,4})(?=$|\s*[,)\]};%]|\\%|\s+[A-Za-z\\])"
)
_LETTER_TIMES = re.compile(r"(?<=[0-9])\s*[xX]\s*(?=10\s*\^)")
_UPRIGHT = re.compile(r"\\(?:text(?:bf|rm|it|normal|sf)?|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_ORDINAL = re.compile(r"([0-9]+)\s?(?:\^\s?\{?\s?)?(?:\\(?:text|mathrm)\s?\{\s?)?(?:st|nd|rd|th)(?:\s?\}){0,2}")
_ABOUT = re.compile(r"^(?:\\text\s?\{\s?)?(?:about|approximately|approx\.?|roughly)(?![A-Za-z])\s?\}?\s?")
_MODULE = re.compile(r"\b(?:np|numpy|math|sympy)\.(?=[a-z])")
_WRAPPERS = (
    (r"\(", r"\)"), (r"\[", r"\]"), ("$$", "$$"), ("$", "$"), ("**", "**"), ("__", "__"), ("`", "`"), ('"', '"')
)  # fmt: skip
_BOX = re.compile(r"\\[bf]?box(?:ed)?\s*\{")
_CLOSING_PUNCTUATION = ".,;: \t\n"


def is_small(text: str) -> bool:
    """Whether the text is short and flat enough to be read at all; one pass, no recursion."""
    if len(text) > MAX_LENGTH:
        return False
    depth = deepest = 0
    for character in text:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth -= 1
    return deepest <= MAX_NESTING


def normalize(text: str) -> str:
    """The same answer in one spelling: LaTeX commands, single spaces, no delimiters around it, no closing full stop.

    Args:
        text: A final answer of at most `MAX_LENGTH` characters.

    Returns:
        Text for the tokenizer; also a key, since two answers with one spelling are one answer.
    """
    text = _strip_wrappers(text)
    text = _THOUSANDS.sub("", text)
    text = _BRACED_COMMA.sub(".", text)
    if not text.isascii():
        text = _SUPERSCRIPT_RUN.sub(lambda run: "^{" + run[0].translate(_SUPERSCRIPTS) + "}", text)
        text = _SUBSCRIPT_RUN.sub(lambda run: "_{" + run[0].translate(_SUBSCRIPTS) + "}", text)
        text = text.translate(_SYMBOL_TABLE)
    if "\\" in text:
        text = _EMPTY_DELIMITER.sub(" ", text)
        text = _LAYOUT.sub(" ", text)
        text = _FRACTION.sub(r"\\frac", text)
    text = _SPACING.sub(lambda found: found[1] or " ", text)
    text = _mark_currency(text)
    text = _MODULE.sub("", text.replace("**", "^"))
    text = " ".join(text.split())
    ordinal = _ORDINAL.fullmatch(text)
    text = ordinal[1] if ordinal else text
    text = _ABOUT.sub("", text)
    text = _SCIENTIFIC.sub(r"\1\\times 10^{\2}", text)
    text = _LETTER_TIMES.sub(r"\\times ", text)
    text = _strip_wrappers(text)
    return text.replace(" ", "") if _SPACED_THOUSANDS.fullmatch(text) else text


def plain(text: str) -> str:
    r"""The text as words for comparison: no case, no `\text{...}` around parts, no brackets around all of it."""
    text = unwrap(text).casefold().strip(_CLOSING_PUNCTUATION + "*")
    while len(text) > 1 and text[0] == "(" and text.find(")") == len(text) - 1:
        text = text[1:-1].strip()
    return re.sub(r"^(?:an?|the|option|choice)\s+(?=\S)", "", text).strip("() .")


def unwrap(text: str) -> str:
    r"""The text without `\text{...}` and other upright type around its parts."""
    return " ".join(_UPRIGHT.sub(r" \1 ", text).split())


def closing_brace(text: str, start: int) -> int:
    """Where the brace closes that was opened just before `start`; -1 if it never does."""
    depth = 1
    for place in range(start, len(text)):
        if text[place] == "{":
            depth += 1
        elif text[place] == "}":
            depth -= 1
            if depth == 0:
                return place
    return -1


def _strip_wrappers(text: str) -> str:
    """Take off what stands around the whole answer: `$...$`, `**...**`, a box, closing punctuation."""
    while True:
        before = text
        text = text.strip()
        # A full stop closes a sentence; `\,` is a command, and dots say that digits go on.
        text = text.removesuffix("\\\\")
        stripped = text.rstrip(_CLOSING_PUNCTUATION)
        text = stripped if not (stripped.endswith("\\") or text.endswith("...")) else text
        for opening, closing in _WRAPPERS:
            inner = text[len(opening) : -len(closing)]
            around = len(text) >= len(opening) + len(closing) and text.startswith(opening) and text.endswith(closing)
            if around and closing not in inner and not inner.endswith("\\"):
                text = inner
                break
        box = _BOX.match(text)
        if box and closing_brace(text, box.end()) == len(text) - 1:
            text = text[box.end() : -1]
        if text == before:
            return text


def _mark_currency(text: str) -> str:
    r"""Tell dollars that are money, as `\dollar`, from dollars that delimit mathematics, which go."""
    if "$" not in text:
        return text
    text = text.replace("\\$", "\\dollar ")
    if text.count("$") % 2:
        text = re.sub(r"\$\s*(?=[0-9.])", r"\\dollar ", text)
    return text.replace("$", " ")
