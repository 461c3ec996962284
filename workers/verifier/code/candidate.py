"""Runs inside the sandbox, in the process of the program: executes it and serves calls of its functions.

Nothing here is trusted once the program has started, because the program can change any of it. What it answers is
decoded with suspicion by `values.py` and judged elsewhere. The file imports next to nothing: its start is most of what
a verdict costs.

A frame is four bytes of length and a body. Bodies that arrive are marshalled tuples, written by a process we trust;
bodies that leave are JSON arrays with tagged values: `["l", 1, 2]` is the list `[1, 2]`.
"""

from __future__ import annotations

import builtins
import marshal
import posix
import sys
from _json import encode_basestring_ascii as quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import CodeType
    from typing import Any

    Frame = tuple[Any, ...]

_MUTABLE = {"list", "dict", "set", "bytearray", "deque", "Counter", "OrderedDict", "defaultdict"}
_SMALL = 2**63


class Session:
    """The channel to the tests, and the objects that crossed it only by number."""

    def __init__(self, fd: int) -> None:
        """Serve on the socket `fd`."""
        self.fd = fd
        self.objects: list[Any] = []
        self.numbers: dict[int, int] = {}
        self.foreign: dict[int, Any] = {}

    def receive(self) -> Frame:
        """The next frame; the process ends where the other side hung up."""
        length = int.from_bytes(self._read(4), "little")
        frame: Frame = marshal.loads(self._read(length))
        return frame

    def send(self, text: str) -> None:
        """Write one frame."""
        body = text.encode("ascii")
        view = memoryview(len(body).to_bytes(4, "little") + body)
        while view:
            view = view[posix.write(self.fd, view) :]

    def _read(self, count: int) -> bytes:
        chunks = b""
        while len(chunks) < count:
            chunk = posix.read(self.fd, count - len(chunks))
            if not chunk:
                posix._exit(0)
            chunks += chunk
        return chunks

    def ask(self, request: str) -> Any:
        """Ask the tests for something (the call of one of their functions); they may call us meanwhile."""
        self.send(request)
        while True:
            frame = self.receive()
            if frame[0] == "ok":
                return self.decode(frame[1])
            if frame[0] == "raise":
                raise exception(frame[1], frame[2])
            self.send(self.answer(frame))

    def answer(self, frame: Frame) -> str:
        """Do what a frame asks for; whatever goes wrong is the answer."""
        try:
            return self.perform(frame)
        except BaseException as error:  # noqa: BLE001  the program may raise anything
            return describe(error)

    def perform(self, frame: Frame) -> str:
        """Do what a frame asks for."""
        operation, number = frame[0], frame[1]
        if operation == "names":
            program = sys.modules["program"].__dict__
            return '["ok",["l"' + "".join("," + self._global(program, name) for name in number) + "]]"
        target, rest = self.objects[number], frame[2:]
        if operation == "call":
            return self.call(target, *(rest[1:] if rest[0] else self.decode(rest[1])))
        if operation in ("equal", "instance"):
            rest = (self.objects[rest[0]],)
        return '["ok",' + self.encode(OPERATIONS[operation](target, *[self.decode(item) for item in rest])) + "]"

    def _global(self, program: dict[str, Any], name: str) -> str:
        if name not in program:
            return '["missing"]'
        return '["module"]' if type(program[name]) is type(sys) else self.encode(program[name])

    def call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Call; a function that returns nothing may have worked in place, so its arguments go back."""
        result = function(*args, **kwargs)
        if result is None and any(type(value).__name__ in _MUTABLE for value in (*args, *kwargs.values())):
            return '["ok",null,' + self.encode(list(args)) + "," + self.encode(dict(kwargs)) + "]"
        return '["ok",' + self.encode(result) + "]"

    def encode(self, value: Any) -> str:
        """Plain values as themselves, subclasses as the plain type, all else as a number that stands for the object."""
        kind = type(value)
        encoder = ENCODERS.get(kind)
        if encoder is None:
            encoder = self._uncommon(kind)
        return encoder(self, value)

    def _uncommon(self, kind: type) -> Callable[[Session, Any], str]:
        """The encoder of a type from a module that the program imported, or of the plain base of a subclass."""
        for base in kind.__mro__:
            if base in ENCODERS:
                return namedtuple if base is tuple and hasattr(kind, "_fields") else ENCODERS[base]
            encoder = LAZY.get((base.__module__, base.__name__))
            if encoder is not None and getattr(sys.modules.get(base.__module__), base.__name__, None) is base:
                return encoder
        return as_object

    def decode(self, packed: Any) -> Any:
        """Undo `pack` of values.py: tuples are tagged, everything else is itself."""
        if type(packed) is not tuple:
            return packed
        tag = packed[0]
        if tag == "l":
            return [self.decode(item) for item in packed[1]]
        if tag == "t":
            return tuple([self.decode(item) for item in packed[1]])
        if tag == "d":
            return {self.decode(key): self.decode(value) for key, value in packed[1]}
        if tag == "h":
            return self.objects[packed[1]]
        if tag == "x":
            number = packed[1]
            if number not in self.foreign:
                self.foreign[number] = (ForeignFunction if packed[2] else ForeignObject)(self, number)
            return self.foreign[number]
        if tag == "g":
            found = __import__(packed[1], fromlist=["*"])
            for name in packed[2].split("."):
                found = getattr(found, name)
            return found
        items = [self.decode(item) for item in packed[2]]
        if tag == "s":
            return (frozenset if packed[1] else set)(items)
        return REBUILD[tag](packed[1], items)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "get": getattr,
    "set": setattr,
    "iter": iter,
    "next": next,
    "len": len,
    "item": lambda target, key: target[key],
    "set_item": lambda target, key, value: target.__setitem__(key, value),
    "equal": lambda target, other: bool(target == other),
    "instance": lambda target, other: isinstance(other, target),
    "str": str,
    "repr": repr,
}


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


class ForeignFunction:
    """A function of the tests: a call is sent to them."""

    __slots__ = ("_number", "_session")
    _number: int
    _session: Session

    def __init__(self, session: Session, number: int) -> None:
        """Stand for object `number` of the tests."""
        object.__setattr__(self, "_session", session)
        object.__setattr__(self, "_number", number)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it there."""
        each = self._session.encode
        return self._session.ask(f'["call",{self._number},{each(args)},{each(kwargs)}]')


class ForeignObject:
    """An object of the tests: its attributes are read and written there; it may be iterated over."""

    __slots__ = ("_number", "_session")
    _number: int
    _session: Session

    def __init__(self, session: Session, number: int) -> None:
        """Stand for object `number` of the tests."""
        object.__setattr__(self, "_session", session)
        object.__setattr__(self, "_number", number)

    def __getattr__(self, name: str) -> Any:
        """Read it there."""
        return self._session.ask(f'["get",{self._number},{quote(name)}]')

    def __setattr__(self, name: str, value: Any) -> None:
        """Write it there."""
        self._session.ask(f'["set",{self._number},{quote(name)},{self._session.encode(value)}]')

    def __iter__(self) -> Any:
        """Iterate there."""
        return self._session.ask(f'["iter",{self._number}]')

    def __next__(self) -> Any:
        """Iterate there."""
        return self._session.ask(f'["next",{self._number}]')


def exception(name: str, args: tuple[Any, ...]) -> BaseException:
    """The built-in exception of that name."""
    try:
        error: BaseException = getattr(builtins, name)(*args)
    except Exception:  # noqa: BLE001  one that wants other arguments
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
    except BaseException:  # noqa: BLE001  a hostile __str__
        pass
    return f'["raise",{quote(str(nearest))},{quote(str(name)[:100])},{arguments}]'


def compiled(source: str) -> CodeType | str:
    """The program's code, or why there is none."""
    try:
        return compile(source, "<program>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        return f'["unparsable",{quote(f"{type(error).__name__}: {error}"[:200])}]'


def new_program(name: str) -> dict[str, Any]:
    """The namespace of a module of its own, which dataclasses and pickle look for."""
    module = type(sys)(name)
    sys.modules[name] = module
    return module.__dict__


def leave(code: Any = None) -> None:
    """`exit` and `quit`, which the absent `site` module would have brought."""
    raise SystemExit(code)


def limit(limits: dict[str, int]) -> None:
    """Lower this process's resource limits, for good."""
    import resource

    for name, value in limits.items():
        number = getattr(resource, name)
        hard = resource.getrlimit(number)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        # The soft limit of processor time is a signal that tells why the program ended.
        resource.setrlimit(number, (value, value + 1 if name == "RLIMIT_CPU" and hard != value else value))


def serve_functions(session: Session, source: str) -> None:
    """Run the program, then do as the tests ask."""
    code = compiled(source)
    if isinstance(code, str):
        session.send(code)
        return
    try:
        exec(code, new_program("program"))  # the sandbox is made for this
    except BaseException as error:  # noqa: BLE001  the program may raise anything, and exit
        session.send(describe(error))
    else:
        session.send('["ok",null]')
    while True:
        session.send(session.answer(session.receive()))


def end_others() -> None:
    """Kill every process that we may, but ourselves."""
    try:  # noqa: SIM105  contextlib is an import
        posix.kill(-1, 9)
    except OSError:
        pass


def serve_cases(session: Session, source: str, clean: bool) -> None:
    """Run the program once for each case that arrives, in a fork of this process."""
    import _socket

    code = compiled(source)
    if isinstance(code, str):
        session.send(code)
        return
    session.send('["ok",null]')
    channel = _socket.socket(fileno=session.fd)
    while True:
        head, control, _, _ = channel.recvmsg(1, _socket.CMSG_SPACE(8))
        if not head:
            posix._exit(0)
        files = memoryview(control[0][2]).cast("i")
        child = posix.fork()
        if child == 0:
            posix.dup2(files[0], 0)
            posix.dup2(files[1], 1)
            for fd in (*files, channel.detach()):
                posix.close(fd)
            break
        status = posix.waitpid(child, 0)[1]
        for file in files:
            posix.close(file)
        if clean:  # nobody else lives in this namespace
            end_others()
        session.send(f'["ok",{status}]')
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    exec(code, new_program("__main__"))


def main(fd: int, limits: dict[str, int], private: bool) -> None:
    """Say that we are ready, take the program, run it.

    Args:
        fd: Socket to the judge.
        limits: Resource limits by name.
        private: Whether this process has a process namespace to itself.
    """
    limit(limits)
    for name in list(posix.environ):
        posix.unsetenv(name)
    posix.environ.clear()
    vars(builtins).update(exit=leave, quit=leave)
    sys.setrecursionlimit(sys.getrecursionlimit() + 20)  # our own frames are not the program's
    sys.argv = ["program.py"]
    session = Session(fd)
    session.send('["ready"]')
    kind, source = session.receive()
    if kind == "cases":
        serve_cases(session, source, private)
    else:
        serve_functions(session, source)
