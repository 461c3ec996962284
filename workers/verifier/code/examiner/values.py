"""The types that cross between the tests and the program: how each is built, packed, and written back."""

import builtins
import collections
import datetime
import decimal
import fractions
import sys
from collections.abc import Callable
from typing import Any

SCALARS = {type(None), bool, int, float, complex, str, bytes, type(...)}
"""Cross to the program as they are."""
_MUTABLE = {
    list,
    dict,
    set,
    bytearray,
    collections.deque,
    collections.Counter,
    collections.OrderedDict,
    collections.defaultdict,
}
_NAMED: dict[tuple[str, ...], Any] = {}


def _named_tuple(items: list[Any]) -> Any:
    name, fields, *values = items
    key = (name, *fields)
    if any(type(text) is not str or len(text) > 100 for text in key) or len(key) > 100:
        raise ValueError("not the names of a named tuple")
    if key not in _NAMED:
        _NAMED[key] = collections.namedtuple(name, fields)  # it refuses what is no identifier
    return _NAMED[key](*values)


def _pairs(items: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(items[::2], items[1::2], strict=True))


def _builtin_type(items: list[Any]) -> type:
    kind = getattr(builtins, items[0])
    if not isinstance(kind, type):
        raise ValueError("not a type")
    return kind


_FLOATS = {"inf": float("inf"), "-inf": float("-inf"), "nan": float("nan")}

BUILDERS: dict[str, Callable[[list[Any]], Any]] = {
    "d": lambda items: dict(_pairs(items)),
    "s": set,
    "z": frozenset,
    "i": lambda items: int(items[0], 16),
    "f": lambda items: _FLOATS[items[0]],
    "c": lambda items: complex(float(items[0]), float(items[1])),
    "b": lambda items: bytes.fromhex(items[0]),
    "y": lambda items: bytearray.fromhex(items[0]),
    "r": lambda items: range(*items),
    "k": lambda items: dict.fromkeys(items).keys(),
    "e": lambda items: dict(_pairs(items)).items(),
    "g": _builtin_type,
    "C": lambda items: collections.Counter(dict(_pairs(items))),
    "O": lambda items: collections.OrderedDict(_pairs(items)),
    "D": lambda items: collections.defaultdict(None, _pairs(items)),
    "Q": lambda items: collections.deque(items[1:], items[0]),
    "N": _named_tuple,
    "decimal": lambda items: decimal.Decimal(items[0]),
    "fraction": lambda items: fractions.Fraction(int(items[0]), int(items[1])),
    "date": lambda items: datetime.date(*items),
    "time": lambda items: datetime.time(*items),
    "datetime": lambda items: datetime.datetime(*items),
    "timedelta": lambda items: datetime.timedelta(*items),
}
"""By the tag of a value of the program: what it is here, of its decoded items."""

_Packed = tuple[str, Any, list[Any]]


def _factory(value: "collections.defaultdict[Any, Any]") -> str | None:
    factory = value.default_factory
    name = getattr(factory, "__name__", "")
    return name if factory is not None and getattr(builtins, name, None) is factory else None


PACKERS: dict[type, Callable[[Any], _Packed]] = {
    set: lambda value: ("s", False, list(value)),
    frozenset: lambda value: ("s", True, list(value)),
    bytearray: lambda value: ("y", None, [bytes(value)]),
    range: lambda value: ("r", None, [value.start, value.stop, value.step]),
    collections.Counter: lambda value: ("C", None, list(value.items())),
    collections.OrderedDict: lambda value: ("O", None, list(value.items())),
    collections.defaultdict: lambda value: ("D", _factory(value), list(value.items())),
    collections.deque: lambda value: ("Q", value.maxlen, list(value)),
    decimal.Decimal: lambda value: ("decimal", None, [str(value)]),
    fractions.Fraction: lambda value: ("fraction", None, [value.numerator, value.denominator]),
    datetime.date: lambda value: ("date", None, [value.year, value.month, value.day]),
    datetime.time: lambda value: ("time", None, [value.hour, value.minute, value.second, value.microsecond]),
    datetime.datetime: lambda value: (
        "datetime",
        None,
        [value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond],
    ),
    datetime.timedelta: lambda value: ("timedelta", None, [value.days, value.seconds, value.microseconds]),
}
"""By type: a tag, something about the value, and its items, which are packed in their turn."""


def write_back(old: Any, new: Any) -> Any:
    """`old` with the content of `new` where both are the same mutable type, inner containers included; else `new`."""
    if type(old) is not type(new) or type(old) not in _MUTABLE:
        return new
    if type(old) is list:
        old[:] = [write_back(*pair) for pair in zip(old, new, strict=False)] + new[len(old) :]
    elif isinstance(old, dict):
        merged = {key: write_back(old[key], value) if key in old else value for key, value in new.items()}
        old.clear()
        old.update(merged)
    elif type(old) is bytearray:
        old[:] = new
    else:  # a set or a deque
        items = list(new)
        old.clear()
        (old.update if type(old) is set else old.extend)(items)
    return old


def import_place(value: Any) -> tuple[str, str] | None:
    """The standard library's module and the name in it where a function, method or class is found, if it is."""
    module = getattr(value, "__module__", None) or getattr(getattr(value, "__objclass__", None), "__module__", None)
    name = getattr(value, "__qualname__", None)
    if type(module) is not str or type(name) is not str or module.partition(".")[0] not in sys.stdlib_module_names:
        return None
    found: Any = sys.modules.get(module) if module != "__main__" else None
    for part in name.split("."):
        found = getattr(found, part, None)
    return (module, name) if found is value else None
