"""Exceptions as they cross between the program and the tests: a built-in class, and arguments that are plain."""

from __future__ import annotations

import builtins
from _json import encode_basestring_ascii as quote

from workers.verifier.code.candidate.encoding import ENCODERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def exception(name: str, args: tuple[Any, ...]) -> BaseException:
    """The built-in exception of that name."""
    try:
        error: BaseException = getattr(builtins, name)(*args)
    except (AttributeError, TypeError, ValueError):  # there is none here, or it wants other arguments
        return RuntimeError(name, *args)
    return error


def describe(error: BaseException) -> str:
    """An exception as its nearest built-in class, its own name, and its arguments where they are plain."""
    nearest, name, arguments = "Exception", "exception", "[]"
    try:
        kind = type(error)
        name = kind.__name__
        nearest = next(base.__name__ for base in kind.__mro__ if getattr(builtins, base.__name__, None) is base)
        args = error.args
        if kind.__module__ != "builtins" or not all(type(arg) in (str, int, float, type(None)) for arg in args):
            args = (str(error)[:1000],)
        arguments = "[" + ",".join(ENCODERS[type(arg)](None, arg) for arg in args) + "]"  # type: ignore[arg-type]
    except BaseException:  # noqa: BLE001  the class is the program's: its `args` and `__str__` may raise anything
        pass  # what is known by now is told
    return f'["raise",{quote(str(nearest))},{quote(str(name)[:100])},{arguments}]'
