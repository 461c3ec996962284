"""Values cross the channel unchanged; what is no value, or no proper answer, is refused."""

import builtins
import datetime
import decimal
import fractions
import json
import math
import random
import socket
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from contextlib import ExitStack, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.verifier.code.candidate.exceptions import exception
from workers.verifier.code.candidate.session import Session as ProgramSession
from workers.verifier.code.examiner.channel import BrokenChannelError, Channel
from workers.verifier.code.examiner.remote import Remote
from workers.verifier.code.examiner.session import CandidateError, Session
from workers.verifier.code.examiner.values import write_back

Point = namedtuple("Point", "x y")
plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers()
hashable = st.recursive(plain, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=5)
values = st.recursive(
    hashable,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(hashable, inner, max_size=4)
        | st.sets(hashable, max_size=4)
        | st.tuples(inner)
        | st.builds(deque, st.lists(inner, max_size=3))
    ),
    max_leaves=20,
)


@pytest.fixture
def session() -> Session:
    return Session(Channel(0, max_bytes=0))


def there_and_back(session: Session, value: object) -> object:
    return session.decode(json.loads(ProgramSession(0).encode(value)))


def back_and_forth(session: Session, value: object) -> object:
    return ProgramSession(0).decode(session.pack(value))


def shown(value: object) -> str:
    """A text that is the same for equal values of equal types; sets have no order."""
    match value:
        case set() | frozenset():
            return f"{type(value).__name__}({sorted(map(shown, value))})"
        case dict():
            return f"dict({[(shown(key), shown(item)) for key, item in value.items()]})"
        case list() | tuple() | deque():
            return f"{type(value).__name__}({[shown(item) for item in value]})"
    return repr(value)


@given(values)
@settings(max_examples=300, deadline=None)
def test_any_plain_value_crosses_both_ways(value: object):
    session = Session(Channel(0, max_bytes=0))
    assert shown(there_and_back(session, value)) == shown(value)
    assert shown(back_and_forth(session, value)) == shown(value)


@pytest.mark.parametrize(
    "value",
    [
        *(0, -1, 2**63, -(2**63), 10**5000, -(7**9000), True, None),
        *(0.0, -0.0, 0.1, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, 1e22),
        *("", "\0", "\udc80", "\U0001f40d", '"\\\n', b"\0\xff", bytearray(b"x"), 1j, complex(-0.0, math.inf)),
        *((), (1,), [[]], {}, {1: {2: [3]}}, {(1, 2): None}, set(), {1, "a"}, frozenset({(1,)}), range(1, 9, 2)),
        *(Counter("abca"), OrderedDict(b=1, a=2), deque([1, 2], maxlen=3), Point(1, 2), [Point(1, [2])]),
        *(decimal.Decimal("1.10"), fractions.Fraction(-3, 7), datetime.date(2020, 2, 29), datetime.timedelta(-1, 5)),
        *(datetime.datetime(1, 2, 3, 4, 5, 6, 7), datetime.time(23, 59, 1)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_keeps_its_type_and_its_digits(session: Session, value: object):
    for crossed in (there_and_back(session, value), back_and_forth(session, value)):
        assert crossed == value
        assert type(crossed).__name__ == type(value).__name__
        if isinstance(value, float):
            assert math.copysign(1, crossed) == math.copysign(1, value)


def test_not_a_number_crosses(session: Session):
    assert math.isnan(there_and_back(session, math.nan))


def test_a_subclass_becomes_its_plain_base(session: Session):
    class Liar(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    class Text(str):
        pass

    class Table(dict):
        def items(self):
            return [("forged", 1)]

    for value, base in ((Liar(3), int), (Text("a"), str), (Table(a=1), dict)):
        assert type(there_and_back(session, value)) is base
    assert there_and_back(session, Liar(3)) != 4
    assert there_and_back(session, Table(a=1)) == {"a": 1}


def test_dictionary_views_compare_like_sets(session: Session):
    assert there_and_back(session, {1: 2, 3: 4}.keys()) == {1, 3}
    assert there_and_back(session, {1: 2}.items()) == {(1, 2)}


def test_an_unknown_object_stays_where_it_is_and_equals_nothing(session: Session):
    program = ProgramSession(0)
    remote = session.decode(json.loads(program.encode(object())))
    assert type(remote) is Remote
    assert remote != 1
    assert [remote] != [1]
    assert remote not in (1, "a", None)
    assert bool(remote)
    with pytest.raises(TypeError):
        abs(remote - 1)
    with pytest.raises(TypeError):
        remote < 1  # noqa: B015
    with pytest.raises(TypeError):
        math.isclose(remote, 1.0)
    assert program.decode(session.pack([remote]))[0] is program.objects[0]


def test_default_factories_of_builtin_types_cross_to_the_program(session: Session):
    crossed = back_and_forth(session, defaultdict(list, {1: [2]}))
    assert crossed[5] == []


def test_importable_functions_cross_to_the_program_by_name(session: Session):
    assert back_and_forth(session, [math.sqrt, int, len, str.upper]) == [math.sqrt, int, len, str.upper]


MALFORMED = [
    *(b"", b"{}", b"1", b"[]", b"[1]", b"\xff\xfe", b"[" * 10**5, b'["ok"]', b'["ok",1,2]', b'["ok",{}]', b'["ok",[]]'),
    *(b'["ok",["?"]]', b'["ok",[["l"]]]', b'["ok",["h","a"]]', b'["ok",["x",0]]', b'["ok",["i","zz"]]', b'["ok",NaN]'),
    *(b'["ok",["s",["l"]]]', b'["ok",["d",1]]', b'["ok",["f","1e5"]]', b'["ok",["b","x"]]', b'["ok",["r","a"]]'),
    *(b'["ok",["N","a b",["l"]]]', b'["ok",["N","a",["l","_b"],1]]', b'["ok",["g","open"]]', b'["ok",["g",1]]'),
    *(b'["raise"]', b'["raise",1,2,3]', b'["call",0]', b'["call","a"]', b'["get",-1,"__class__"]', b'["",1]'),
    *(b'["ok",["decimal","x"]]', b'["ok",["fraction",1,0]]', b'["ok",["date",0,0,0]]', b'["ok",["timedelta",1e300]]'),
    *(b'["ok",["c",1]]', b'["ok",null,1,2]', b'["ok",["C",["l"],1]]', b'["ok",["Q","a"]]', b'["ok",["k",["l"]]]'),
]


def answered(*frames: bytes, max_bytes: int = 1 << 20) -> tuple[Session, ExitStack]:
    """A session whose program has already answered, and what closes it."""
    sockets = ExitStack()
    ours, theirs = (sockets.enter_context(end) for end in socket.socketpair())
    theirs.sendall(b"".join(len(frame).to_bytes(4, "little") + frame for frame in frames))
    theirs.shutdown(socket.SHUT_WR)
    return Session(Channel(ours.fileno(), max_bytes=max_bytes)), sockets


@pytest.mark.parametrize("frame", MALFORMED, ids=lambda frame: frame[:40].decode(errors="replace"))
def test_a_malformed_answer_breaks_the_channel_for_good(frame: bytes):
    session, sockets = answered(frame)
    with sockets, pytest.raises(BrokenChannelError):
        session.call(0, ([1],), {})
    assert session.broken
    with pytest.raises(BrokenChannelError):
        session.call(0, (), {})


def test_random_bytes_never_do_more_than_break_the_channel():
    generator = random.Random(0)
    words = [
        b'["ok",',
        b'["l"',
        b',["h",0]',
        b"]",
        b'"',
        b",",
        b"1",
        b'["N","a",["l","b"]',
        b'["raise","',
        b"null",
        b"{",
    ]
    for _ in range(300):
        frame = b"".join(generator.choice(words) for _ in range(generator.randint(1, 8)))
        session, sockets = answered(frame)
        with sockets, suppress(BrokenChannelError, CandidateError):
            session.call(0, (), {})


def test_more_than_the_allowed_bytes_break_the_channel():
    session, sockets = answered(b'["ok","' + b"x" * 1000 + b'"]', max_bytes=500)
    with sockets, pytest.raises(BrokenChannelError, match="too large"):
        session.call(0, (), {})


@pytest.mark.parametrize(
    "name", ["AssertionError", "SystemExit", "KeyboardInterrupt", "GeneratorExit", "Nonsense", "eval"]
)
def test_exceptions_that_end_tests_do_not_cross(name: str):
    session, sockets = answered(json.dumps(["raise", name, name, []]).encode())
    with sockets, pytest.raises(CandidateError):
        session.call(0, (), {})


@pytest.mark.parametrize("name", ["ValueError", "KeyError", "ZeroDivisionError", "StopIteration", "UnicodeDecodeError"])
def test_builtin_exceptions_cross_with_their_arguments(name: str):
    session, sockets = answered(json.dumps(["raise", name, name, ["why"]]).encode())
    expected = {"StopIteration": CandidateError, "UnicodeDecodeError": ValueError}.get(name) or getattr(builtins, name)
    with sockets, pytest.raises(expected) as caught:
        session.call(0, (), {})
    assert "why" in str(caught.value) or name == "StopIteration"


def test_whatever_the_tests_raise_can_be_raised_in_the_program():
    for name in dir(builtins):
        if isinstance(kind := getattr(builtins, name), type) and issubclass(kind, BaseException):
            for count in range(7):
                error = exception(name, ("why",) * count)
                assert type(error) is kind or type(error) is RuntimeError or isinstance(error, OSError)
    assert repr(exception("ValueError", ("why",))) == "ValueError('why')"
    assert repr(exception("UnicodeDecodeError", ("why",))) == "RuntimeError('UnicodeDecodeError', 'why')"
    assert repr(exception("NoSuchError", ())) == "RuntimeError('NoSuchError')"


def test_what_is_written_back_keeps_inner_containers():
    inner = [1]
    old = [inner, {"a": inner}, 5]
    write_back(old, [[2, 3], {"a": [2, 3], "b": 1}, 6, 7])
    assert old == [[2, 3], {"a": [2, 3], "b": 1}, 6, 7]
    assert old[0] is inner
    assert old[1]["a"] is inner
    table = defaultdict(list, a=[1])
    write_back(table, defaultdict(None, b=[2]))
    assert table == {"b": [2]}
