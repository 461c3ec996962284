"""The program's end of the channel to the tests, and what they may do with its objects.

A frame is four bytes of length and a body. Bodies that arrive are marshalled tuples, written by a process we trust;
bodies that leave are JSON arrays with tagged values.
"""

from __future__ import annotations

import marshal
import posix
import sys

from workers.verifier.code.candidate.decoding import unpack
from workers.verifier.code.candidate.encoding import ENCODERS, uncommon
from workers.verifier.code.candidate.exceptions import describe, exception

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Frame = tuple[Any, ...]

_MUTABLE = {"list", "dict", "set", "bytearray", "deque", "Counter", "OrderedDict", "defaultdict"}


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
        except BaseException as error:  # noqa: BLE001  the program's code ends here: whatever it raises, exits too, is its answer
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
        return (ENCODERS.get(kind) or uncommon(kind))(self, value)

    def decode(self, packed: Any) -> Any:
        """A value of the tests from what their session has packed."""
        return unpack(self, packed)


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
