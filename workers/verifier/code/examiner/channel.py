"""Frames from a program that may be hostile: limited in size, and parsed as JSON, which can do nothing by itself."""

import json
import os
from typing import Any

_CHUNK = 1 << 20


class BrokenChannelError(BaseException):
    """The program is gone or talks nonsense; not an Exception, so that tests do not swallow it by accident."""


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
