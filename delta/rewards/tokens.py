r"""The pieces a normalized answer is made of: numbers, letter runs, commands, `\text{...}`, single signs."""

# ruff: noqa: SIM905  lists of names are texts here: a page of lines with one name each is hard to read

import re
from typing import NamedTuple

from delta.rewards.normalization import closing_brace

MAX_TOKENS = 600


class UnreadableError(ValueError):
    """The text is not an answer as we know them; it may still equal the reference as text."""


class Token(NamedTuple):
    """One piece; `kind` is number, word (a run of letters), command, text (words in upright type) or sign."""

    kind: str
    text: str
    spaced: bool = False
    """Whether white space stands before it: `2 1/2` and `12 m` against `21/2` and `12m`."""


FUNCTIONS = frozenset(
    ("sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log lg exp gcd lcm max min").split()
)
_PLAIN_COMMANDS = {name: name for name in FUNCTIONS} | {
    "sqrt": "sqrt", "cbrt": "cbrt", "asin": "arcsin", "acos": "arccos", "atan": "arctan", "pi": "pi", "Pi": "pi",
    "infinity": "infty", "Infinity": "infty", "inf": "infty", "infty": "infty", "oo": "infty", "theta": "theta",
    "alpha": "alpha", "beta": "beta", "lambda": "lambda", "omega": "omega", "floor": "floor", "ceil": "ceil",
    "abs": "abs", "frac": "frac", "binom": "binom", "choose": "choose",
}  # fmt: skip
"""Words that mean a command also without their backslash."""

_ALIASES = {
    "leq": "le", "leqslant": "le", "geq": "ge", "geqslant": "ge", "neq": "ne", "lt": "<", "gt": ">", "dbinom": "binom",
    "tbinom": "binom", "lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "lbrace": "{", "rbrace": "}",
    "lbrack": "[", "rbrack": "]", "ast": "*", "cdot": "*", "times": "*", "div": "/", "varnothing": "emptyset",
    "land": "and", "wedge": "and", "lor": "or", "vee": "or", "backslash": "setminus", "smallsetminus": "setminus",
    "thickapprox": "approx", "simeq": "approx", "colon": ":", "degree": "circ", "lparen": "(", "rparen": ")",
    "arccot": "arccot", "tg": "tan", "ctg": "cot", "asin": "arcsin", "acos": "arccos", "atan": "arctan",
    "Reals": "reals", "R": "reals", "imath": "i", "mathring": "dot",
}  # fmt: skip
_FONT_COMMANDS = frozenset(
    ["mathbf", "boldsymbol", "bm", "mathit", "mathcal", "mathsf", "mathnormal", "underline", "displaystyle"]
)

_PIECE = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<number>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
    r"|(?P<upright>\\(?:text(?:bf|rm|it|normal|sf|tt)?|mathrm|mbox|hbox|operatorname\*?)\s*\{)"
    r"|(?P<reals>\\math(?:bb|bf)\s*(?:\{R\}|R(?![A-Za-z])))"
    r"|(?P<command>\\[A-Za-z]+)"
    r"|(?P<sign>\\[\\{}%#&_|]|[!-/:-@\[\]^_{|}])"
    r"|(?P<word>[A-Za-z]+)"
)


def tokenize(text: str) -> list[Token]:
    """Take a normalized answer apart.

    Raises:
        UnreadableError: A character has no meaning here, such as a digit of another script, or there are too many.
    """
    tokens: list[Token] = []
    place, spaced = 0, False
    while place < len(text):
        found = _PIECE.match(text, place)
        if found is None or len(tokens) > MAX_TOKENS:
            raise UnreadableError(text[place : place + 20])
        place, kind, piece = found.end(), found.lastgroup or "", found[0]
        if kind == "space":
            spaced = True
            continue
        if kind == "upright":
            end = closing_brace(text, place)
            if end < 0:
                raise UnreadableError(piece)
            tokens.extend(_upright(text[place:end].strip()))
            place = end + 1
        elif kind == "command":
            name = piece[1:]
            if name not in _FONT_COMMANDS:
                name = _ALIASES.get(name, name)
                known = "command" if name.isalpha() and len(name) > 1 else "sign" if not name.isalpha() else "word"
                escaped = "\\" if name in ("{", "}") else ""
                tokens.append(Token(known, escaped + name, spaced))
        elif kind == "reals":
            tokens.append(Token("command", "reals", spaced))
        elif kind == "word" and piece in _PLAIN_COMMANDS:
            tokens.append(Token("command", _PLAIN_COMMANDS[piece], spaced))
        else:
            tokens.append(Token(kind, piece, spaced))
        spaced = False
    return tokens


def _upright(content: str) -> list[Token]:
    r"""Words in upright type are text; what else people put there, such as `\text{2}` or `\mathrm{e}`, is not."""
    if content in FUNCTIONS:
        return [Token("command", content)]
    if not content.strip(" .,;:"):
        return []
    if re.search(r"[0-9\\=+*^_<>]|\b(?:and|or)\b|^\(?[A-J]\)?\s*,", content) or not re.search("[A-Za-z]", content):
        return tokenize(content)
    return [Token("text", content, True)]


def spell(tokens: list[Token]) -> str:
    """The tokens as text again, for names and units."""
    pieces = []
    for token in tokens:
        piece = "\\" + token.text if token.kind == "command" else token.text
        pieces.append(" " + piece if token.spaced or token.kind == "text" else piece)
    return "".join(pieces).strip()


OPENING = frozenset(["(", "[", "{", "\\{", "langle", "lfloor", "lceil", "begin"])
CLOSING = frozenset([")", "]", "}", "\\}", "rangle", "rfloor", "rceil", "end"])


def depths(tokens: list[Token]) -> list[int]:
    """The number of brackets open around each token; an interval's brackets need not match each other."""
    depth, found = 0, []
    for token in tokens:
        if token.text in CLOSING and token.kind in ("sign", "command"):
            depth -= 1
        found.append(depth)
        if token.text in OPENING and token.kind in ("sign", "command"):
            depth += 1
    return found


def split(tokens: list[Token], separators: frozenset[str]) -> tuple[list[list[Token]], list[str]]:
    """Cut the tokens at the separators that stand outside of all brackets: the parts and what was between them."""
    parts: list[list[Token]] = [[]]
    cuts: list[str] = []
    for token, depth in zip(tokens, depths(tokens), strict=True):
        if depth == 0 and token.text.strip(" ,").lower() in separators:
            cuts.append(token.text.strip(" ,").lower())
            parts.append([])
        elif depth == 0 and token.text in separators:
            cuts.append(token.text)
            parts.append([])
        else:
            parts[-1].append(token)
    return parts, cuts
