"""Objects of the program as the tests see them.

What is done to one is done there, except what a comparison needs: its truth, its hash and its equality with anything of
the tests are settled here, and it has no arithmetic and no order, so that no object can claim to equal an expected
value, nor see one. Two objects of the program are compared by the program: then both sides are its own.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workers.verifier.code.examiner.session import Session


class Remote:
    """An object of the program."""

    __slots__ = ("_remote_number", "_remote_session")
    _remote_number: int
    _remote_session: "Session"

    def __init__(self, session: "Session", number: int) -> None:
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
