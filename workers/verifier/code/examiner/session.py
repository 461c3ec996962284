"""The tests' end of the channel: requests to the program, and its requests while it runs.

What arrives is decoded with suspicion: anything malformed breaks the session for good.
"""

import builtins
import marshal
from collections.abc import Callable
from typing import Any

from workers.verifier.code.examiner.channel import BrokenChannelError, Channel
from workers.verifier.code.examiner.remote import Remote
from workers.verifier.code.examiner.values import BUILDERS, PACKERS, SCALARS, import_place, write_back

_NOT_CROSSING = {"AssertionError", "SystemExit", "KeyboardInterrupt", "GeneratorExit"}


class CandidateError(Exception):
    """An exception of the program that is no built-in one, or one that must not reach the tests as such."""


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
        if kind in SCALARS:
            return value
        if kind is list:
            return ("l", [self.pack(item) for item in value])
        if kind is tuple:
            return ("t", [self.pack(item) for item in value])
        if kind is dict:
            return ("d", [(self.pack(key), self.pack(item)) for key, item in value.items()])
        if kind is Remote:
            return ("h", value._remote_number)
        if kind in PACKERS:
            tag, about, items = PACKERS[kind](value)
            return (tag, about, [self.pack(item) for item in items])
        if isinstance(value, tuple) and hasattr(kind, "_fields"):
            return ("N", kind.__name__, [self.pack(list(kind._fields)), *(self.pack(item) for item in value)])
        if callable(value) and (place := import_place(value)):
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
        return BUILDERS[tag]([decode(item) for item in node[1:]])

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
