"""Values of the tests as objects of the program."""

from __future__ import annotations

import builtins

from workers.verifier.code.candidate.foreign import ForeignFunction, ForeignObject

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from workers.verifier.code.candidate.session import Session


def _collections(name: str) -> Any:
    import collections

    return getattr(collections, name)


def _datetime(name: str) -> Any:
    import datetime

    return getattr(datetime, name)


def _decimal(text: str) -> Any:
    import decimal

    return decimal.Decimal(text)


def _fraction(numerator: int, denominator: int) -> Any:
    import fractions

    return fractions.Fraction(numerator, denominator)


REBUILD: dict[str, Callable[[Any, list[Any]], Any]] = {
    "y": lambda _, items: bytearray(items[0]),
    "r": lambda _, items: range(*items),
    "C": lambda _, items: _collections("Counter")(dict(items)),
    "O": lambda _, items: _collections("OrderedDict")(items),
    "D": lambda factory, items: _collections("defaultdict")(factory and getattr(builtins, factory), items),
    "Q": lambda size, items: _collections("deque")(items, size),
    "N": lambda name, items: _collections("namedtuple")(name, items[0])(*items[1:]),
    "decimal": lambda _, items: _decimal(*items),
    "fraction": lambda _, items: _fraction(*items),
    "date": lambda _, items: _datetime("date")(*items),
    "datetime": lambda _, items: _datetime("datetime")(*items),
    "time": lambda _, items: _datetime("time")(*items),
    "timedelta": lambda _, items: _datetime("timedelta")(*items),
}


def unpack(session: Session, packed: Any) -> Any:
    """Undo `pack` of the tests' session: tuples are tagged, everything else is itself."""
    if type(packed) is not tuple:
        return packed
    tag = packed[0]
    if tag == "l":
        return [unpack(session, item) for item in packed[1]]
    if tag == "t":
        return tuple([unpack(session, item) for item in packed[1]])
    if tag == "d":
        return {unpack(session, key): unpack(session, value) for key, value in packed[1]}
    if tag == "h":
        return session.objects[packed[1]]
    if tag == "x":
        number = packed[1]
        if number not in session.foreign:
            session.foreign[number] = (ForeignFunction if packed[2] else ForeignObject)(session, number)
        return session.foreign[number]
    if tag == "g":
        found = __import__(packed[1], fromlist=["*"])
        for name in packed[2].split("."):
            found = getattr(found, name)
        return found
    items = [unpack(session, item) for item in packed[2]]
    if tag == "s":
        return (frozenset if packed[1] else set)(items)
    return REBUILD[tag](packed[1], items)
