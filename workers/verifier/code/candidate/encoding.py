"""Values of the program as text for the tests: JSON arrays with tags; `["l", 1, 2]` is the list `[1, 2]`."""

from __future__ import annotations

import builtins
import sys
from _json import encode_basestring_ascii as quote

from workers.verifier.code.candidate.foreign import ForeignFunction, ForeignObject

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from workers.verifier.code.candidate.session import Session

_SMALL = 2**63


def integer(session: Session, value: int) -> str:
    """JSON's own number where any decoder takes it, else hexadecimal, which has no limit of digits."""
    value = int.__index__(value)
    return int.__repr__(value) if -_SMALL < value < _SMALL else f'["i","{value:x}"]'


def floating(session: Session, value: float) -> str:
    """Shortest text that gives the same float back."""
    text = float.__repr__(value)
    return f'["f","{text}"]' if text[-1] in "fn" else text  # inf, nan


def sequence(tag: str, iterate: Callable[[Any], Iterable[Any]]) -> Callable[[Session, Any], str]:
    """An encoder of values that are a tag and their items."""

    def encode(session: Session, value: Any) -> str:
        each = session.encode
        return '["' + tag + '"' + "".join(["," + each(item) for item in iterate(value)]) + "]"

    return encode


def mapping(tag: str, items: Callable[[Any], Iterable[tuple[Any, Any]]]) -> Callable[[Session, Any], str]:
    """An encoder of values that are a tag and keys and values in turn."""

    def encode(session: Session, value: Any) -> str:
        each = session.encode
        return '["' + tag + '"' + "".join([f",{each(key)},{each(item)}" for key, item in items(value)]) + "]"

    return encode


def attributes(tag: str, *names: str) -> Callable[[Session, Any], str]:
    """An encoder of values that are a tag and some attributes."""
    return sequence(tag, lambda value: [getattr(value, name) for name in names])


def naive(tag: str, *names: str) -> Callable[[Session, Any], str]:
    """The same for times; a time zone is an object of its own, and a time that has one stays here with it."""
    plain = attributes(tag, *names)

    def encode(session: Session, value: Any) -> str:
        return plain(session, value) if value.tzinfo is None else as_object(session, value)

    return encode


def namedtuple(session: Session, value: Any) -> str:
    """A tuple with names, which stays one."""
    fields = type(value)._fields
    return sequence("N", lambda value: [type(value).__name__, list(fields), *tuple.__iter__(value)])(session, value)


def as_object(session: Session, value: Any) -> str:
    """A number that stands for an object that stays here, or for one that lives with the tests."""
    if type(value) in (ForeignFunction, ForeignObject):
        return f'["x",{value._number}]'
    if type(value) is type:
        name: str = value.__name__
        if getattr(builtins, name, None) is value:
            return '["g",' + quote(name) + "]"
    key = id(value)
    if key not in session.numbers:
        session.numbers[key] = len(session.objects)
        session.objects.append(value)  # alive from now on, so the id stays its own
    return f'["h",{session.numbers[key]}]'


ENCODERS: dict[type, Callable[[Session, Any], str]] = {
    type(None): lambda session, value: "null",
    bool: lambda session, value: "true" if value else "false",
    int: integer,
    float: floating,
    str: lambda session, value: quote(str.__str__(value)),
    complex: sequence("c", lambda value: [complex.__getattribute__(value, name) for name in ("real", "imag")]),
    bytes: lambda session, value: '["b","' + bytes.hex(value) + '"]',
    bytearray: lambda session, value: '["y","' + bytearray.hex(value) + '"]',
    list: sequence("l", list.__iter__),
    tuple: sequence("t", tuple.__iter__),
    set: sequence("s", set.__iter__),
    frozenset: sequence("z", frozenset.__iter__),
    dict: mapping("d", dict.items),
    range: attributes("r", "start", "stop", "step"),
    type({}.keys()): sequence("k", iter),
    type({}.items()): mapping("e", iter),
}

LAZY: dict[tuple[str, str], Callable[[Session, Any], str]] = {
    ("collections", "Counter"): mapping("C", dict.items),
    ("collections", "OrderedDict"): mapping("O", lambda value: value.items()),
    ("collections", "defaultdict"): mapping("D", dict.items),
    ("collections", "deque"): sequence("Q", lambda value: [value.maxlen, *value]),
    ("decimal", "Decimal"): sequence("decimal", lambda value: [str(value)]),
    ("fractions", "Fraction"): attributes("fraction", "numerator", "denominator"),
    ("datetime", "timedelta"): attributes("timedelta", "days", "seconds", "microseconds"),
    ("datetime", "date"): attributes("date", "year", "month", "day"),
    ("datetime", "time"): naive("time", "hour", "minute", "second", "microsecond"),
    ("datetime", "datetime"): naive("datetime", "year", "month", "day", "hour", "minute", "second", "microsecond"),
}


def uncommon(kind: type) -> Callable[[Session, Any], str]:
    """The encoder of a type from a module that the program imported, or of the plain base of a subclass."""
    for base in kind.__mro__:
        if base in ENCODERS:
            return namedtuple if base is tuple and hasattr(kind, "_fields") else ENCODERS[base]
        encoder = LAZY.get((base.__module__, base.__name__))
        if encoder is not None and getattr(sys.modules.get(base.__module__), base.__name__, None) is base:
            return encoder
    return as_object
