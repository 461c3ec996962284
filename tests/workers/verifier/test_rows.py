"""Samples and verdicts survive being written as JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delta.types import Outcome, Sample, Verdict
from tests.delta.data.test_references import REFERENCES
from workers.verifier.rows import row_of_sample, row_of_verdict, sample_from_row, verdict_from_row

SAMPLES = st.builds(
    Sample,
    response=st.text(),
    answer=REFERENCES,
    prompt=st.text(),
    tokens=st.integers(0, 10**6),
    max_tokens=st.integers(0, 10**6),
    truncated=st.booleans(),
)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
TIMES = st.integers(0, 10**9).map(lambda microseconds: round(microseconds / 1e6, 6))
VERDICTS = st.builds(
    Verdict,
    outcome=st.sampled_from(Outcome),
    reward=NUMBERS,
    detail=st.text(),
    seconds=TIMES,
    queue_seconds=TIMES,
    parts=st.dictionaries(st.text(), NUMBERS, max_size=3),
)


@given(SAMPLES)
def test_a_sample_is_read_back_as_it_was(sample):
    assert sample_from_row(json.loads(json.dumps(row_of_sample(sample)))) == sample


@given(VERDICTS)
def test_a_verdict_is_read_back_as_it_was(verdict):
    assert verdict_from_row(json.loads(json.dumps(row_of_verdict(verdict)))) == verdict


def test_only_the_response_and_the_reference_are_needed():
    assert sample_from_row({"response": "x", "answer": 1, "tokens": None, "else": 0}) == Sample("x", "1")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([], r"a JSON list, not an object\."),
        ({"answer": "1"}, r"no field 'response'\."),
        ({"response": 5, "answer": "1"}, r"response is 5\."),
        ({"response": "x"}, r"no field 'answer', only \['response'\]\."),
        ({"response": "x", "answer": "1", "tokens": "5"}, r"tokens is '5'\. Expected a JSON int\."),
        ({"response": "x", "answer": "1", "tokens": True}, r"tokens is True\. Expected a JSON int\."),
        ({"response": "x", "answer": "1", "truncated": 1}, r"truncated is 1\. Expected a JSON bool\."),
    ],
)
def test_a_row_that_is_no_sample_is_refused(row, message):
    with pytest.raises(ValueError, match=message):
        sample_from_row(row)


@pytest.mark.parametrize(
    "row",
    [
        None,
        [],
        {},
        {"outcome": "correct"},
        {"outcome": "fine", "reward": 1},
        {"outcome": "correct", "reward": None},
        {"outcome": "correct", "reward": "nan"},
        {"outcome": "correct", "reward": float("inf")},
        {"outcome": "correct", "reward": 1, "parts": [1]},
        {"outcome": "correct", "reward": 1, "parts": {"a": float("nan")}},
    ],
)
def test_a_row_that_is_no_verdict_is_refused(row):
    with pytest.raises(ValueError, match="is no verdict"):
        verdict_from_row(row)
