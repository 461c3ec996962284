"""What a row says about scoring is read in one place, and written back the same."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delta.data.references import parse_reference, reference_fields, reference_text
from delta.types import FunctionTests, PluginAnswer, StdioCase, StdioTests

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


def plugin_answer(judge: list[str], answer: object) -> PluginAnswer:
    return PluginAnswer(".".join(judge), json.dumps(answer, ensure_ascii=False, sort_keys=True))


REFERENCES = st.one_of(
    TEXTS.filter(str.strip),
    st.builds(FunctionTests, TEXTS.map(lambda text: f"assert {text}"), NAMES),
    st.builds(StdioTests, st.lists(st.builds(StdioCase, TEXTS, TEXTS), min_size=1, max_size=3).map(tuple)),
    st.builds(plugin_answer, st.lists(NAMES, min_size=2, max_size=4), JSON),
)


@given(REFERENCES)
def test_fields_of_a_reference_are_read_back_as_that_reference(reference):
    assert parse_reference(reference_fields(reference)) == reference


@given(REFERENCES)
def test_fields_of_a_reference_survive_a_json_file(reference):
    assert parse_reference(json.loads(json.dumps(reference_fields(reference)))) == reference


@pytest.mark.parametrize(("answer", "expected"), [("\\frac{1}{2}", "\\frac{1}{2}"), (7, "7"), (-0.5, "-0.5")])
def test_math_is_the_task_of_a_row_that_names_none(answer, expected):
    assert parse_reference({"answer": answer}) == expected
    assert parse_reference({"answer": answer, "task": "math"}) == expected


def test_a_row_with_tests_is_code_even_beside_an_answer():
    row = {"answer": "x", "tests": "assert f() == 1", "entry_point": "f"}
    assert parse_reference(row) == FunctionTests("assert f() == 1", "f")


PAIRS = StdioTests((StdioCase("1\n2", "3"), StdioCase("", "0")))


@pytest.mark.parametrize(
    "tests",
    [
        [{"input": "1\n2", "output": "3"}, {"input": "", "output": "0"}],
        [{"input": ["1", "2"], "output": ["3"]}, {"input": [], "output": "0"}],
        {"inputs": ["1\n2", ""], "outputs": ["3", "0"]},
    ],
)
def test_inputs_and_outputs_come_in_several_shapes_and_as_json_in_a_text(tests):
    assert parse_reference({"tests": tests}) == PAIRS
    assert parse_reference({"tests": "  " + json.dumps(tests)}) == PAIRS


@pytest.mark.parametrize("in_a_text", [False, True])
def test_calls_with_arguments_become_asserts_that_hold_for_the_right_function(in_a_text):
    tests = {"fn_name": "join", "inputs": [["a", 2], [None, 0.5]], "outputs": [["a", 2], [None, 0.5]]}
    reference = parse_reference({"tests": json.dumps(tests) if in_a_text else tests})
    assert reference.entry_point == "join"
    exec(reference.source, {"join": lambda *arguments: list(arguments)})
    with pytest.raises(AssertionError):
        exec(reference.source, {"join": lambda *arguments: arguments})


ODD = [math.nan, math.inf, -math.inf, [1.0, {"a": [math.nan]}], {"b": math.inf}, 0.0, ["nan"]]


@pytest.mark.parametrize("output", ODD, ids=str)
def test_results_that_are_not_finite_are_expected_as_they_are(output):
    tests = json.dumps({"fn_name": "get", "inputs": [[1], [2]], "outputs": [output, 5]})
    reference = parse_reference({"tests": tests})
    exec(reference.source, {"get": {1: json.loads(json.dumps(output)), 2: 5}.get})
    for other in (*ODD, 5, None, [], {}, [math.nan], [1.0, {"a": []}], [1.0, {"c": [math.nan]}]):
        if str(other) != str(output):
            with pytest.raises(AssertionError):
                exec(reference.source, {"get": {1: other, 2: 5}.get})


@pytest.mark.parametrize("argument", ODD, ids=str)
def test_arguments_that_are_not_finite_are_given_as_they_are(argument):
    tests = json.dumps({"fn_name": "written", "inputs": [[argument]], "outputs": [str(argument)]})
    exec(parse_reference({"tests": tests}).source, {"written": str})


def test_source_that_begins_with_a_bracket_is_source():
    source = "[check(f) for check in CHECKS]"
    assert parse_reference({"tests": source, "entry_point": "f"}) == FunctionTests(source, "f")


def test_a_dotted_task_is_a_judge_that_gets_the_answer_as_json():
    reference = parse_reference({"task": "my.judges.proof", "answer": {"b": [1, "é"], "a": None}})
    assert reference == PluginAnswer("my.judges.proof", '{"a": null, "b": [1, "é"]}')


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        ("1/2", "1/2"),
        (FunctionTests("assert f()", "f"), "assert f()"),
        (StdioTests((StdioCase("1", "2"), StdioCase("3", "4"))), "1 -> 2\n3 -> 4"),
        (PluginAnswer("a.b", '["x"]'), '["x"]'),
    ],
)
def test_a_reference_can_be_read_by_a_person(reference, text):
    assert reference_text(reference) == text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, r"no field 'answer', only \[\]\."),
        ({"prompt": "?", "task": "math"}, r"no field 'answer', only \['prompt', 'task'\]\."),
        ({"answer": "  "}, r"answer is '  '\. Expected a text \(or a number\) that is not empty\."),
        ({"answer": True}, r"answer is True\. Expected a text"),
        ({"answer": ["1"]}, r"answer is \['1'\]\. Expected a text"),
        ({"answer": "\ud800"}, r"answer is no Unicode text .*without lone surrogates"),
        ({"task": "proof", "answer": 1}, r"task is 'proof'\. Expected 'math', 'code', or the Python path of a judge\."),
        ({"task": 3, "answer": 1}, r"task is 3\. Expected 'math'"),
        ({"task": "a.b"}, r"no field 'answer', only \['task'\]\."),
        ({"task": "code"}, r"no field 'tests', only \['task'\]\."),
        ({"tests": " "}, r"tests is an empty text\. Expected Python source with asserts\."),
        ({"tests": "assert f()"}, r"entry_point is None\. Expected the name of the function that the tests call\."),
        ({"tests": "assert f()", "entry_point": "f()"}, r"entry_point is 'f\(\)'\."),
        ({"tests": "assert f() == '\ud800'", "entry_point": "f"}, r"tests is no Unicode text"),
        ({"tests": []}, r"tests is \[\]\. Expected Python source, or a list of inputs and outputs\."),
        ({"tests": "[]"}, r"tests is \[\]\."),
        ({"tests": 5}, r"tests is 5\. Expected Python source"),
        ({"tests": [{"input": "1"}]}, r"tests\[0\] is {'input': '1'}\. Expected {'input': a text, 'output': a text}\."),
        ({"tests": [{"input": "1", "output": "1"}, "x"]}, r"tests\[1\] is 'x'\."),
        ({"tests": [{"input": "\ud800", "output": ""}]}, r"tests\[0\]\.input is no Unicode text"),
        ({"tests": {"inputs": ["1"], "outputs": []}}, r"keys \['inputs', 'outputs'\]\. Expected .*of one length"),
        ({"tests": {"input": "1"}}, r"tests has the keys \['input'\]\."),
        ({"tests": {"fn_name": "a b", "inputs": [[1]], "outputs": [1]}}, r"tests\.fn_name is 'a b'\."),
        ({"tests": {"fn_name": "f", "inputs": ["1"], "outputs": [1]}}, r"tests\.inputs holds '1'\. Expected a list"),
        ({"tests": [["x" * 200]]}, r"tests\[0\] is \['x{60,75}\.\.\.\. Expected"),
    ],
)
def test_a_row_that_cannot_be_scored_is_refused_and_says_what_was_seen(row, message):
    with pytest.raises(ValueError, match=message):
        parse_reference(row)
