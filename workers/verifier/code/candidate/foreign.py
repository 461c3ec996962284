"""Objects of the tests as the program sees them: whatever is done to them is asked of the tests."""

from __future__ import annotations

from _json import encode_basestring_ascii as quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from workers.verifier.code.candidate.session import Session


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
