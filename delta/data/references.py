"""What a row of a data file says about how its answers are scored; read here for training and for the shell."""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from delta.types import FunctionTests, PluginAnswer, Reference, StdioCase, StdioTests


def parse_reference(row: Mapping[str, Any]) -> Reference:
    r"""The reference of a row.

    math    `answer`: a text or a number
    code    `tests`: Python source with asserts, and `entry_point`, the function they call
            `tests`: a list of `{"input": ..., "output": ...}`, or `{"inputs": [...], "outputs": [...]}`, for programs
                     that read standard input; with `fn_name` in the latter, for functions given such arguments
    a.b.c   `answer`: whatever the judge at that Python path expects

    Args:
        row: One object of a JSON-lines file. Without `task`, a row with `tests` is code and any other is math.

    Returns:
        The reference.

    Raises:
        ValueError: The row is none of these; the message says what was seen and expected.
    """
    task = row.get("task") or ("code" if "tests" in row else "math")
    if task == "math":
        return _math_answer(row)
    if task == "code":
        return _code_tests(row)
    if isinstance(task, str) and "." in task:
        return PluginAnswer(task, json.dumps(_field(row, "answer"), ensure_ascii=False, sort_keys=True))
    raise ValueError(f"task is {task!r}. Expected 'math', 'code', or the Python path of a judge.")


def _math_answer(row: Mapping[str, Any]) -> str:
    value = _field(row, "answer")
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
        raise ValueError(f"answer is {value!r}. Expected a text (or a number) that is not empty.")
    _check_text("answer", str(value))
    return str(value)


def _code_tests(row: Mapping[str, Any]) -> FunctionTests | StdioTests:
    tests = _field(row, "tests")
    if isinstance(tests, str) and tests.lstrip().startswith(("[", "{")):  # data sets that keep JSON in a text
        with contextlib.suppress(ValueError, RecursionError):  # source may begin with a bracket, too
            tests = json.loads(tests)
    if isinstance(tests, str):
        entry_point = row.get("entry_point")
        if not tests.strip():
            raise ValueError("tests is an empty text. Expected Python source with asserts.")
        if not isinstance(entry_point, str) or not entry_point.isidentifier():
            raise ValueError(f"entry_point is {entry_point!r}. Expected the name of the function that the tests call.")
        _check_text("tests", tests)
        return FunctionTests(tests, entry_point)
    if isinstance(tests, Mapping):
        inputs, outputs = tests.get("inputs"), tests.get("outputs")
        if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs) or not inputs:
            raise ValueError(f"tests has the keys {sorted(tests)}. Expected 'inputs' and 'outputs', of one length.")
        if "fn_name" in tests:
            return _calls(str(tests["fn_name"]), inputs, outputs)
        tests = [{"input": stdin, "output": stdout} for stdin, stdout in zip(inputs, outputs, strict=True)]
    if not isinstance(tests, list) or not tests:
        raise ValueError(f"tests is {_short(tests)}. Expected Python source, or a list of inputs and outputs.")
    return StdioTests(tuple(_case(case, place) for place, case in enumerate(tests)))


_SAME = """\
def _same(found, expected):  # as ==, but not-a-number is what was expected where that is expected
    if isinstance(expected, float) and expected != expected:
        return isinstance(found, float) and found != found
    if isinstance(expected, list):
        return isinstance(found, list) and len(found) == len(expected) and all(map(_same, found, expected))
    if isinstance(expected, dict):
        keys = isinstance(found, dict) and found.keys() == expected.keys()
        return keys and all(_same(found[key], expected[key]) for key in expected)
    return found == expected
"""


def _calls(name: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> FunctionTests:
    """Calls and their results as the asserts that they mean."""
    if not name.isidentifier():
        raise ValueError(f"tests.fn_name is {name!r}. Expected the name of a function.")
    lines = []
    for arguments, output in zip(inputs, outputs, strict=True):
        if not isinstance(arguments, list):
            raise ValueError(f"tests.inputs holds {_short(arguments)}. Expected a list of arguments for every call.")
        call, has_nan = f"{name}(*{arguments!r})", any(map(math.isnan, _floats(output)))
        lines.append(f"assert _same({call}, {output!r})" if has_nan else f"assert {call} == {output!r}")
    if any(map(math.isnan, _floats(outputs))):
        lines.insert(0, _SAME)
    if not all(map(math.isfinite, _floats([inputs, outputs]))):  # JSON's NaN and Infinity, which Python writes so
        lines.insert(0, "from math import inf, nan")
    return FunctionTests("\n".join(lines), name)


def _floats(value: Any) -> Iterator[float]:
    """All floats in a JSON value."""
    if isinstance(value, float):
        yield value
    elif isinstance(value, list | Mapping):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _floats(item)


def _case(case: Any, place: int) -> StdioCase:
    texts: list[Any] = [case.get("input"), case.get("output")] if isinstance(case, Mapping) else []
    texts = ["\n".join(text) if isinstance(text, list) and _all_texts(text) else text for text in texts]
    if len(texts) != 2 or not _all_texts(texts):
        raise ValueError(f"tests[{place}] is {_short(case)}. Expected {{'input': a text, 'output': a text}}.")
    for name, text in zip(("input", "output"), texts, strict=True):
        _check_text(f"tests[{place}].{name}", text)
    return StdioCase(*texts)


def _all_texts(values: Sequence[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _field(row: Mapping[str, Any], name: str) -> Any:
    if name not in row:
        raise ValueError(f"no field {name!r}, only {sorted(row)}.")
    return row[name]


def _check_text(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} is no Unicode text ({error}). Expected text without lone surrogates.") from error


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def reference_text(reference: Reference) -> str:
    """The reference as a person would read it."""
    if isinstance(reference, FunctionTests):
        return reference.source
    if isinstance(reference, StdioTests):
        return "\n".join(f"{case.stdin} -> {case.stdout}" for case in reference.cases)
    return reference if isinstance(reference, str) else reference.answer


def reference_fields(reference: Reference) -> dict[str, Any]:
    """The fields of a row with this reference: `parse_reference` backwards."""
    if isinstance(reference, str):
        return {"task": "math", "answer": reference}
    if isinstance(reference, FunctionTests):
        return {"task": "code", "tests": reference.source, "entry_point": reference.entry_point}
    if isinstance(reference, StdioTests):
        return {"task": "code", "tests": [{"input": case.stdin, "output": case.stdout} for case in reference.cases]}
    return {"task": reference.judge, "answer": json.loads(reference.answer)}
