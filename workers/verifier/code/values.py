"""Plain values between the tests and a program that may be hostile: the tests' side of the channel.

`Remote` stands for an object of the program. What is done to it is done there, except what a comparison needs: its
truth, its hash and its equality with anything of the tests are settled here, and it has no arithmetic and no order, so
that no object can claim to equal an expected value, nor see one. Two objects of the program are compared by the
program: then both sides are its own.
"""

import builtins
import collections
import datetime
import decimal
import fractions
import json
import marshal
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

_NOT_CROSSING = {"AssertionError", "SystemExit", "KeyboardInterrupt", "GeneratorExit"}
_CHUNK = 1 << 20


class BrokenChannelError(BaseException):
    """The program is gone or talks nonsense; not an Exception, so that tests do not swallow it by accident."""


class CandidateError(Exception):
    """An exception of the program that is no built-in one, or one that must not reach the tests as such."""


class Channel:
    """Frames on a socket whose other end is hostile."""

    def __init__(self, fd: int, *, max_bytes: int) -> None:
        """Talk on `fd`; read no more than `max_bytes` in all."""
        self._fd = fd
        self._left = max_bytes

    def send(self, body: bytes) -> None:
        """Write one marshalled frame."""
        view = memoryview(len(body).to_bytes(4, "little") + body)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            raise BrokenChannelError("the program ended") from None

    def receive(self) -> list[Any]:
        """The next answer as parsed JSON, a list that begins with a word."""
        length = int.from_bytes(self._read(4), "little")
        self._left -= length
        if self._left < 0:
            raise BrokenChannelError("the values are too large")
        try:
            answer = json.loads(self._read(length), parse_constant=_refuse)
        except (ValueError, RecursionError, MemoryError):
            raise BrokenChannelError("a malformed answer") from None
        if type(answer) is not list or not answer or type(answer[0]) is not str:
            raise BrokenChannelError("a malformed answer")
        return answer

    def _read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            try:
                chunk = os.read(self._fd, min(count - len(data), _CHUNK))
            except OSError:
                chunk = b""
            if not chunk:
                raise BrokenChannelError("the program ended")
            data += chunk
        return bytes(data)


def _refuse(constant: str) -> None:
    raise ValueError(constant)


class Session:
    """Requests to the program, and its requests for functions and objects of the tests while it runs."""

    def __init__(self, channel: Channel, is_ours: Callable[[Any], bool] = lambda value: False) -> None:
        """Talk on `channel`; the program may use attributes of those objects that `is_ours` allows."""
        self._channel = channel
        self._is_ours = is_ours
        self._locals: list[Any] = []
        self._local_numbers: dict[int, int] = {}
        self._remotes: dict[int, Remote] = {}
        self.broken: str | None = None
        self.requests = 0
        """Times that the tests used something of the program."""

    def request(self, *frame: Any) -> Any:
        """Ask the program for something; what it raised is raised here."""
        self.requests += 1
        return self.decode(self._exchange(marshal.dumps(frame), may_stop=frame[0] == "next")[1])

    def call(self, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function of the program; if it returns nothing, what it did to mutable arguments is done to ours."""
        self.requests += 1
        try:
            frame = marshal.dumps(("call", number, True, args, kwargs))
        except ValueError:  # something that is not plain
            frame = marshal.dumps(("call", number, False, self.pack((args, kwargs))))
        answer = self._exchange(frame)
        if len(answer) == 4:
            new_args, new_kwargs = self.decode(answer[2]), self.decode(answer[3])
            if type(new_args) is not list or type(new_kwargs) is not dict:
                raise self._break("a malformed answer")
            for old, new in zip(args, new_args, strict=False):
                write_back(old, new)
            for name in kwargs.keys() & new_kwargs.keys():
                write_back(kwargs[name], new_kwargs[name])
            return None
        return self.decode(answer[1])

    def load(self) -> list[Any]:
        """What the program answered when it was started: `["ok", ...]`, `["unparsable", why]` or an exception."""
        return self._receive()

    def names(self, names: list[str]) -> dict[str, Any]:
        """The program's globals of these names, without those that it lacks and without modules."""
        answer = self._exchange(marshal.dumps(("names", tuple(names))))[1]
        if type(answer) is not list or len(answer) != len(names) + 1:
            raise self._break("a malformed answer")
        pairs = zip(names, answer[1:], strict=True)
        return {name: self.decode(node) for name, node in pairs if node not in (["missing"], ["module"])}

    def pack(self, value: Any) -> Any:
        """A value for the program: tuples are tagged, other plain values are themselves, the rest becomes a number."""
        kind = type(value)
        if kind in _SCALARS:
            return value
        if kind is list:
            return ("l", [self.pack(item) for item in value])
        if kind is tuple:
            return ("t", [self.pack(item) for item in value])
        if kind is dict:
            return ("d", [(self.pack(key), self.pack(item)) for key, item in value.items()])
        if kind is Remote:
            return ("h", value._remote_number)
        if kind in _PACKERS:
            tag, about, items = _PACKERS[kind](value)
            return (tag, about, [self.pack(item) for item in items])
        if isinstance(value, tuple) and hasattr(kind, "_fields"):
            return ("N", kind.__name__, [self.pack(list(kind._fields)), *(self.pack(item) for item in value)])
        if callable(value) and (place := _import_place(value)):
            return ("g", *place)
        key = id(value)
        if key not in self._local_numbers:
            self._local_numbers[key] = len(self._locals)
            self._locals.append(value)
        return ("x", self._local_numbers[key], callable(value))

    def decode(self, node: Any) -> Any:
        """A value of the program from parsed JSON."""
        try:
            return self._decode(node)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError, MemoryError):
            raise self._break("a malformed answer") from None

    def _decode(self, node: Any) -> Any:
        if type(node) is not list:
            if type(node) is dict:
                raise ValueError("no value is a JSON object")
            return node
        tag, decode = node[0], self._decode
        if tag == "l":
            return [decode(item) for item in node[1:]]
        if tag == "t":
            return tuple([decode(item) for item in node[1:]])
        if tag == "h":
            number = node[1]
            if type(number) is not int:
                raise ValueError("not a number of an object")
            if number not in self._remotes:
                self._remotes[number] = Remote(self, number)
            return self._remotes[number]
        if tag == "x":
            return self._locals[node[1]]
        return _BUILDERS[tag]([decode(item) for item in node[1:]])

    def _exchange(self, frame: bytes, *, may_stop: bool = False) -> list[Any]:
        """Send a request, serve the program's own requests, return its answer.

        StopIteration is an answer to `next` alone: from a function it would silently end a `map` of the tests.
        """
        if self.broken:
            raise BrokenChannelError(self.broken)
        self._send(frame)
        while True:
            answer = self._receive()
            if answer[0] == "ok" and len(answer) in (2, 4):
                return answer
            if answer[0] == "raise" and len(answer) == 4:
                error = self._exception(*answer[1:])
                if isinstance(error, StopIteration | StopAsyncIteration) and not may_stop:
                    error = CandidateError(type(error).__name__)
                raise error
            self._send(marshal.dumps(self._serve(answer)))

    def _send(self, frame: bytes) -> None:
        try:
            self._channel.send(frame)
        except BrokenChannelError as error:
            raise self._break(str(error)) from None

    def _receive(self) -> list[Any]:
        try:
            return self._channel.receive()
        except BrokenChannelError as error:
            raise self._break(str(error)) from None

    def _serve(self, request: list[Any]) -> tuple[Any, ...]:
        """Do what the program asks for with an object that the tests gave to it."""
        if len(request) < 2 or type(request[1]) is not int or not 0 <= request[1] < len(self._locals):
            raise self._break("a malformed answer")
        operation, target, rest = request[0], self._locals[request[1]], [self.decode(node) for node in request[2:]]
        try:
            return ("ok", self.pack(self._perform(operation, target, rest)))
        except Exception as error:  # noqa: BLE001  it belongs to the program, which asked for it
            name = next(base.__name__ for base in type(error).__mro__ if base.__module__ == "builtins")
            return ("raise", name, tuple(str(arg) for arg in error.args))

    def _perform(self, operation: str, target: Any, rest: list[Any]) -> Any:
        match operation, rest:
            case "call", [tuple(args), dict(kwargs)] if callable(target):
                return target(*args, **kwargs)
            case "iter", [] if not callable(target):
                return iter(target)
            case "next", [] if not callable(target):
                return next(target)
            case "get", [str(name)] if self._is_ours(target) and not name.startswith("_"):
                return getattr(target, name)
            case "set", [str(name), value] if self._is_ours(target) and not name.startswith("_"):
                return setattr(target, name, value)
        raise AttributeError(f"{operation} {rest[:1]}")

    def _break(self, reason: str) -> BrokenChannelError:
        self.broken = self.broken or reason
        return BrokenChannelError(self.broken)

    def _exception(self, nearest: Any, name: Any, args: Any) -> BaseException:
        if type(nearest) is not str or type(name) is not str or type(args) is not list:
            return self._break("a malformed answer")
        kind = getattr(builtins, nearest, None)
        if nearest in _NOT_CROSSING or not (isinstance(kind, type) and issubclass(kind, Exception)):
            return CandidateError(name)
        plain = [arg for arg in args if type(arg) in (str, int, float, type(None))]
        try:
            error: Exception = kind(*plain)
        except TypeError:  # UnicodeError and its like want arguments of their own
            fallback = next(base for base in kind.__mro__ if base in (ValueError, OSError, LookupError, Exception))
            error = fallback(*plain)
        error.candidate_name = name  # type: ignore[attr-defined]
        return error


class Remote:
    """An object of the program."""

    __slots__ = ("_remote_number", "_remote_session")
    _remote_number: int
    _remote_session: Session

    def __init__(self, session: Session, number: int) -> None:
        """Stand for object `number` of the program."""
        object.__setattr__(self, "_remote_session", session)
        object.__setattr__(self, "_remote_number", number)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it there."""
        return self._remote_session.call(self._remote_number, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        """Read an attribute there; what Python itself looks for is not there."""
        if name.startswith("__") and name not in ("__name__", "__doc__", "__dict__"):
            raise AttributeError(name)
        return self._remote_session.request("get", self._remote_number, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Write an attribute there."""
        self._remote_session.request("set", self._remote_number, name, self._remote_session.pack(value))

    def __iter__(self) -> Iterator[Any]:
        """Iterate there."""
        iterator: Iterator[Any] = self._remote_session.request("iter", self._remote_number)
        return iterator

    def __next__(self) -> Any:
        """Iterate there."""
        return self._remote_session.request("next", self._remote_number)

    def __len__(self) -> int:
        """Ask there."""
        length: int = self._remote_session.request("len", self._remote_number)
        return length

    def __getitem__(self, key: Any) -> Any:
        """Read an item there."""
        return self._remote_session.request("item", self._remote_number, self._remote_session.pack(key))

    def __setitem__(self, key: Any, value: Any) -> None:
        """Write an item there."""
        pack = self._remote_session.pack
        self._remote_session.request("set_item", self._remote_number, pack(key), pack(value))

    def __contains__(self, value: Any) -> bool:
        """Look for a value here, item by item: asking would show it."""
        return any(item is value or item == value for item in self)

    def __instancecheck__(self, value: Any) -> bool:
        """Whether an object of the program is of this class of the program."""
        if type(value) is not Remote:
            return False
        return self._remote_session.request("instance", self._remote_number, value._remote_number) is True

    def __eq__(self, other: object) -> bool:
        """Settled here, but between two objects of the program."""
        if self is other:
            return True
        if type(other) is not Remote:
            return NotImplemented
        return self._remote_session.request("equal", self._remote_number, other._remote_number) is True

    def __hash__(self) -> int:
        """Settled here."""
        return hash(("Remote", self._remote_number))

    def __bool__(self) -> bool:
        """Settled here."""
        return True

    def __str__(self) -> str:
        """Ask there."""
        text: str = self._remote_session.request("str", self._remote_number)
        return text

    def __repr__(self) -> str:
        """Ask there."""
        text: str = self._remote_session.request("repr", self._remote_number)
        return text


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


def _import_place(value: Any) -> tuple[str, str] | None:
    """The standard library's module and the name in it where a function, method or class is found, if it is."""
    module = getattr(value, "__module__", None) or getattr(getattr(value, "__objclass__", None), "__module__", None)
    name = getattr(value, "__qualname__", None)
    if type(module) is not str or type(name) is not str or module.partition(".")[0] not in sys.stdlib_module_names:
        return None
    found: Any = sys.modules.get(module) if module != "__main__" else None
    for part in name.split("."):
        found = getattr(found, part, None)
    return (module, name) if found is value else None


_SCALARS = {type(None), bool, int, float, complex, str, bytes, type(...)}
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

_BUILDERS: dict[str, Callable[[list[Any]], Any]] = {
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

_Packed = tuple[str, Any, list[Any]]


def _factory(value: "collections.defaultdict[Any, Any]") -> str | None:
    factory = value.default_factory
    name = getattr(factory, "__name__", "")
    return name if factory is not None and getattr(builtins, name, None) is factory else None


_PACKERS: dict[type, Callable[[Any], _Packed]] = {
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
