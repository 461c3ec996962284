r"""Expressions as trees: what a mathematician reads in `2\frac{1}{2}`, `3\sqrt2/2`, `\sin^2 2x` or `n(n+1)/2`.

A tree is a tuple that opens with its kind:

    ("number", Fraction)   ("symbol", name)   ("constant", "pi" | "e" | "i" | "infinity")
    ("sum" | "product", tree, ...)   ("quotient" | "power", tree, tree)   ("call", name, tree, ...)

A call of a name that is no known function, such as I(0), stands for an unknown function. Text is never evaluated as
code, here or anywhere else: numbers become `Fraction`, names become names.
"""

# ruff: noqa: SIM905  lists of names are texts here: a page of lines with one name each is hard to read

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from delta.rewards.tokens import FUNCTIONS, Token, UnreadableError, spell

Tree = tuple[Any, ...]

MAX_DEPTH = 60

_GREEK = frozenset(
    (
        "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma "
        "tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega hbar ell "
        "partial nabla"
    ).split()
)
_ACCENTS = frozenset(("dot ddot hat widehat vec bar overline tilde widetilde overrightarrow angle triangle").split())
_UNKNOWN_FUNCTIONS = frozenset(["f", "g", "h", "u", "v", "F", "G", "H", "I", "N", "P", "Q", "T", "W"]) | {
    "theta",
    "delta",
    "phi",
    "psi",
    "Phi",
    "Psi",
}
_FENCES = {"(": ")", "[": "]", "{": "}", "|": "|", "lfloor": "rfloor", "lceil": "rceil"}
_INVERSE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
_ONE, _MINUS_ONE = ("number", Fraction(1)), ("number", Fraction(-1))
_DEGREE = ("quotient", ("constant", "pi"), ("number", Fraction(180)))


def read_expression(tokens: list[Token]) -> Tree:
    """The tree of an expression.

    Raises:
        UnreadableError: The tokens are no expression.
    """
    reader = _Reader(tokens)
    tree = reader.sum()
    if reader.place < len(reader.tokens):
        raise UnreadableError(spell(reader.tokens[reader.place :]))
    return tree


def is_word(letters: str) -> bool:
    """Whether a run of letters is a word rather than a product of variables; `abc` and `xy` are products."""
    return len(letters) >= 4 or (len(letters) >= 2 and "o" in letters.lower()) or letters.lower() in ("yes", "all")


def negative(tree: Tree) -> Tree:
    """The tree with its sign changed."""
    return ("number", -tree[1]) if tree[0] == "number" else ("product", _MINUS_ONE, tree)


def symbols_of(tree: Tree) -> set[str]:
    """The names of all variables."""
    if tree[0] == "symbol":
        return {tree[1]}
    return {name for part in tree[1:] if isinstance(part, tuple) for name in symbols_of(part)}


def _product(factors: list[Tree]) -> Tree:
    return factors[0] if len(factors) == 1 else ("product", *factors)


def _is_whole(tree: Tree) -> bool:
    return bool(tree[0] == "number" and tree[1].denominator == 1)


class _Reader:
    """Recursive descent over the tokens; `place` is the next one."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = list(tokens)
        self.place = 0
        self.depth = 0
        self.bars = 0

    def peek(self, ahead: int = 0) -> Token:
        place = self.place + ahead
        return self.tokens[place] if place < len(self.tokens) else Token("end", "")

    def take(self, text: str) -> bool:
        if self.peek().text == text and self.peek().kind in ("sign", "command"):
            self.place += 1
            return True
        return False

    def expect(self, text: str) -> None:
        if not self.take(text):
            raise UnreadableError(f"expected {text}")

    def sum(self) -> Tree:
        terms: list[Tree] = []
        while True:
            minus = False
            signs = 0
            while self.peek().kind == "sign" and self.peek().text in "+-":
                minus ^= self.peek().text == "-"
                self.place += 1
                signs += 1
            if terms and not signs:
                break
            term = self.term()
            terms.append(negative(term) if minus else term)
        return terms[0] if len(terms) == 1 else ("sum", *terms)

    def term(self) -> Tree:
        left = self.juxtaposed()
        while True:
            if self.take("*"):
                left = ("product", left, self.signed(self.juxtaposed))
            elif self.take("/"):
                if left[0] == "number" and self.peek().kind == "number":
                    # 1/2x is half of x, where x/2y is x over 2y.
                    left = _product([("quotient", left, self.factor()), *self.more_factors()])
                else:
                    left = ("quotient", left, self.signed(self.juxtaposed))
            elif self.take("choose"):
                left = ("call", "binom", left, self.juxtaposed())
            elif self.take("bmod") or self.take("mod"):
                raise UnreadableError("a remainder is no value")
            else:
                return left

    def signed(self, read: Callable[[], Tree]) -> Tree:
        if self.take("-"):
            return negative(read())
        self.take("+")
        return read()

    def juxtaposed(self) -> Tree:
        mixed = self.mixed_number()
        first = mixed if mixed is not None else self.factor()
        factors = [first, *self.more_factors()]
        if mixed is None and len(factors) > 1 and _is_whole(first) and factors[1][0] == "quotient":
            _, upper, lower = factors[1]
            if _is_whole(upper) and _is_whole(lower) and 0 < upper[1] < lower[1]:
                factors[:2] = [("sum", first, factors[1])]
        return _product(factors)

    def more_factors(self, *, functions: bool = True) -> list[Tree]:
        factors = []
        while self.starts_factor() and (functions or self.peek().text not in FUNCTIONS):
            if self.peek().kind == "number" and self.tokens[self.place - 1].kind == "number":
                raise UnreadableError("two numbers side by side")
            factors.append(self.factor())
        return factors

    def mixed_number(self) -> Tree | None:
        whole, upper, slash, lower = (self.peek(ahead) for ahead in range(4))
        if (whole.kind, upper.kind, slash.text, lower.kind) != ("number", "number", "/", "number"):
            return None
        numbers = [token.text for token in (whole, upper, lower)]
        if not all(text.isdigit() for text in numbers) or not 0 < int(upper.text) < int(lower.text):
            return None
        self.place += 4
        return ("number", int(whole.text) + Fraction(int(upper.text), int(lower.text)))

    def starts_factor(self) -> bool:
        kind, text, _ = self.peek()
        if kind == "sign":
            return text in ("(", "[", "{") or (text == "|" and not self.bars)
        return kind in ("number", "word") or (
            kind == "command" and text not in ("rfloor", "rceil", "choose", "bmod", "mod")
        )

    def factor(self) -> Tree:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise UnreadableError("nested too deep")
        tree = self.atom()
        while True:
            if self.take("!"):
                if tree[:2] == ("call", "factorial"):
                    raise UnreadableError("a factorial of a factorial")
                tree = ("call", "factorial", tree)
            elif self.peek().text == "^":
                self.place += 1
                tree = self.raised(tree)
            else:
                break
        self.depth -= 1
        return tree

    def raised(self, tree: Tree) -> Tree:
        inner = self.peek(1).text if self.peek().text == "{" else self.peek().text
        if inner == "circ":
            self.place += 3 if self.peek().text == "{" else 1
            return ("product", tree, _DEGREE)
        exponent = self.exponent()
        return ("power", tree, exponent)

    def exponent(self) -> Tree:
        minus = False
        while self.peek().text in ("-", "+") and self.peek().kind == "sign":
            minus ^= self.peek().text == "-"
            self.place += 1
        if self.peek().kind == "word":
            tree = self.letter()
        elif self.peek().kind == "number" and self.peek(1).text == "^":
            tree = self.factor()
        else:
            tree = self.atom()
        return negative(tree) if minus else tree

    def group(self) -> Tree:
        """What an opening bracket here encloses."""
        opening = self.peek().text
        self.place += 1
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise UnreadableError("nested too deep")
        bars, self.bars = self.bars, self.bars + 1 if opening == "|" else 0
        tree = self.sum()
        self.bars = bars
        self.expect(_FENCES[opening])
        self.depth -= 1
        return tree

    def argument(self) -> Tree:
        r"""What TeX takes as one argument: a group, or one sign, so that \frac12 is a half."""
        kind, text, spaced = self.peek()
        if text == "{" and kind == "sign":
            return self.group()
        if kind == "number" and len(text) > 1:
            self.tokens[self.place : self.place + 1] = [Token(kind, text[0], spaced), Token(kind, text[1:])]
        if kind in ("number", "word", "command"):
            return self.letter() if kind == "word" else self.atom()
        raise UnreadableError("an argument is missing")

    def atom(self) -> Tree:
        kind, text, _ = self.peek()
        if kind == "number":
            return self.number()
        if kind == "word":
            return self.letter()
        if kind == "sign" and text in ("(", "[", "{"):
            return self.group()
        if kind == "sign" and text == "|":
            return ("call", "abs", self.group())
        if kind == "command":
            return self.command(text)
        if kind == "text":
            return self.named(text)
        raise UnreadableError(text or "it ends too early")

    def named(self, text: str) -> Tree:
        self.place += 1
        if text in ("e", "i"):
            return ("constant", text)
        return self.symbol(text if len(text) == 1 else "text " + text.lower())

    def number(self) -> Tree:
        text = self.peek().text
        self.place += 1
        value = Fraction(text + "0" if text.endswith(".") else text)
        if self.peek().text == "overline" and "." in text:
            self.place += 1
            block = spell(self.enclosed())
            if not (block.isdigit() and block.isascii()):
                raise UnreadableError(block)
            places = len(text) - text.index(".") - 1
            value += Fraction(int(block), 10**places * (10 ** len(block) - 1))
        return ("number", value)

    def letter(self) -> Tree:
        """The first letter of a run; the rest of the run stays."""
        kind, text, spaced = self.peek()
        if is_word(text):
            raise UnreadableError(text)
        if len(text) > 1:
            self.tokens[self.place : self.place + 1] = [Token(kind, text[0], spaced), Token(kind, text[1:])]
        self.place += 1
        name = text[0]
        if name in ("e", "i") and self.peek().text not in ("_", "'"):
            return ("constant", name)
        return self.symbol(name)

    def symbol(self, name: str) -> Tree:
        if self.take("_"):
            name += "_" + "".join(spell(self.enclosed()).split())
        while self.take("'") or self.prime():
            name += "'"
        called = [self.peek(ahead) for ahead in range(3)]
        if name[0:1] in _UNKNOWN_FUNCTIONS or name in _UNKNOWN_FUNCTIONS:
            single = called[1].kind in ("number", "command") or (called[1].kind == "word" and len(called[1].text) == 1)
            if called[0].text == "(" and called[2].text == ")" and single:
                return ("call", name, self.group())
        return ("symbol", name)

    def prime(self) -> bool:
        if self.peek().text == "^" and self.peek(1).text == "prime":
            self.place += 2
            return True
        if [self.peek(ahead).text for ahead in range(4)] == ["^", "{", "prime", "}"]:
            self.place += 4
            return True
        return False

    def enclosed(self) -> list[Token]:
        """The tokens of a group `{...}`, or the one token that stands for it."""
        if self.peek().text != "{":
            kind, text, spaced = self.peek()
            if kind in ("word", "number") and len(text) > 1:
                self.tokens[self.place : self.place + 1] = [Token(kind, text[0], spaced), Token(kind, text[1:])]
            self.place += 1
            return self.tokens[self.place - 1 : self.place]
        depth, start = 0, self.place + 1
        while self.place < len(self.tokens):
            depth += {"{": 1, "}": -1}.get(self.peek().text, 0)
            self.place += 1
            if depth == 0:
                return self.tokens[start : self.place - 1]
        raise UnreadableError("a brace is missing")

    def command(self, name: str) -> Tree:
        if name in _FENCES:
            return ("call", {"lfloor": "floor", "lceil": "ceil"}[name], self.group())
        self.place += 1
        if name == "frac":
            return ("quotient", self.argument(), self.argument())
        if name == "binom":
            return ("call", "binom", self.argument(), self.argument())
        if name in ("sqrt", "cbrt"):
            return self.root(3 if name == "cbrt" else 2)
        if name in FUNCTIONS:
            return self.function(name)
        if name in ("floor", "ceil", "abs"):
            return ("call", name, self.group())
        if name == "pi":
            return ("constant", "pi")
        if name == "infty":
            return ("constant", "infinity")
        if name in _GREEK:
            return self.symbol(name)
        if name in _ACCENTS:
            return self.symbol(name + " " + spell(self.enclosed()))
        raise UnreadableError(name)

    def root(self, degree: int) -> Tree:
        index: Tree = ("number", Fraction(degree))
        if self.peek().text == "[":
            index = self.group()
        if self.peek().text in ("(", "{"):
            radicand = self.group()
        else:
            # \sqrt2x is the root of 2, times x; \sqrt12 is meant as the root of 12.
            radicand = self.letter() if self.peek().kind == "word" else self.atom()
        return ("power", radicand, ("quotient", _ONE, index))

    def function(self, name: str) -> Tree:
        base = self.enclosed_tree() if self.take("_") else None
        exponent = self.exponent() if self.take("^") else None
        if exponent == _MINUS_ONE and name in _INVERSE:
            name, exponent = _INVERSE[name], None
        if name in ("gcd", "lcm", "max", "min"):
            raise UnreadableError(name)
        if self.peek().text in ("(", "{", "["):
            argument = self.group()
        else:
            argument = self.signed(lambda: _product([self.factor(), *self.more_factors(functions=False)]))
        call: Tree = ("call", name, argument) if base is None else ("call", name, argument, base)
        return call if exponent is None else ("power", call, exponent)

    def enclosed_tree(self) -> Tree:
        return read_expression(self.enclosed())
