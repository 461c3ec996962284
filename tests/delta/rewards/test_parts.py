"""The parts of the reward that come along."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delta.rewards import parts
from delta.types import Outcome, Sample, Verdict

WRONG = Verdict(Outcome.wrong, 0.0)


def of_length(tokens: int, *, max_tokens: int) -> Sample:
    return Sample("x", "1", tokens=tokens, max_tokens=max_tokens)


def slow_penalty(length: int, *, limit: int, buffer: int) -> float:
    """Equation 13 of DAPO, arXiv:2503.14476, by its cases; token after token costs 1 / buffer."""
    if length <= limit - buffer:
        return 0.0
    if length > limit:
        return -1.0
    lost = 0
    for _ in range(limit - buffer, length):
        lost += 1
    return -lost / buffer


@given(st.data())
def test_overlong_agrees_with_a_naive_loop(data):
    limit = data.draw(st.integers(1, 300))
    buffer = data.draw(st.integers(1, limit))
    length = data.draw(st.integers(0, limit + 20))
    found = parts.overlong(of_length(length, max_tokens=limit), WRONG, buffer=buffer)
    assert found == pytest.approx(slow_penalty(length, limit=limit, buffer=buffer))


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [(0, 0.0), (16384, 0.0), (16385, -1 / 4096), (18432, -0.5), (20479, -4095 / 4096), (20480, -1.0), (30000, -1.0)],
)
def test_overlong_has_three_cases(tokens, expected):
    assert parts.overlong(of_length(tokens, max_tokens=20480), WRONG, buffer=4096) == expected


def test_nothing_is_overlong_without_a_limit():
    assert parts.overlong(of_length(10**6, max_tokens=0), WRONG, buffer=4096) == 0.0


@pytest.mark.parametrize("buffer", [-1, 0, 101])
def test_a_buffer_outside_the_limit_is_refused(buffer):
    with pytest.raises(ValueError, match=rf"overlong: buffer={buffer}, expected 1 to the token limit, 100\."):
        parts.overlong(of_length(1, max_tokens=100), WRONG, buffer=buffer)


@pytest.mark.parametrize(
    ("response", "script", "share"),
    [
        ("plain words", "LATIN", 1.0),
        ("\u0434\u0430", "LATIN", 0.0),
        ("\u0434\u0430", "CYRILLIC", 1.0),
        ("ab \u0434\u0430", "LATIN", 0.5),
        ("漢字ab", "CJK", 0.5),
        ("été", "LATIN", 1.0),
        ("1 + 2 = 3", "LATIN", 1.0),
        ("", "LATIN", 1.0),
        ("\U0001d465 + \U0001d6fc ab", "LATIN", 1.0),  # mathematical x and alpha count for nobody
        ("\U0001d465\u0434\u0430", "LATIN", 0.0),
    ],
)
def test_language_is_the_share_of_letters_of_the_script(response, script, share):
    assert parts.language(Sample(response, "1"), WRONG, script=script) == share


@pytest.mark.parametrize(
    ("response", "expected"),
    [("so\n\\boxed{1}\nend", 1.0), ("so\n#### 1", 1.0), ("so it is 1", 0.0), ("boxed{1}", 0.0), ("", 0.0)],
)
def test_the_usual_format_is_an_answer_mark_anywhere(response, expected):
    assert parts.format(Sample(response, "1"), WRONG) == expected


@pytest.mark.parametrize(
    ("response", "expected"), [("<think>a\nb</think>c", 1.0), ("x<think>a</think>c", 0.0), ("<think>a", 0.0)]
)
def test_a_format_must_match_the_whole_response(response, expected):
    assert parts.format(Sample(response, "1"), WRONG, pattern=r"<think>.*</think>.*") == expected


@pytest.mark.parametrize("reward", [0.0, 0.25, 1.0])
def test_correctness_is_the_judges_reward(reward):
    assert parts.correctness(Sample("x", "1"), Verdict(Outcome.wrong, reward)) == reward
