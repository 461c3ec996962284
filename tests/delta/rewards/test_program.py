"""Which program a response commits to."""

import pytest

from delta.rewards.program import extract_program

PROGRAM = "def f(x):\n    return x + 1\n"


def fenced(text: str, tag: str = "python", marks: str = "```") -> str:
    return f"{marks}{tag}\n{text}{marks}\n"


@pytest.mark.parametrize("tag", ["python", "py", "Python", "python3", "", " python", "python title=a.py", "{.python}"])
@pytest.mark.parametrize("marks", ["```", "~~~", "`````"])
def test_a_fenced_block_is_the_program(tag: str, marks: str):
    assert extract_program(f"Here it is:\n\n{fenced(PROGRAM, tag, marks)}\nDone.") == PROGRAM


def test_of_two_programs_the_last_one_counts():
    assert extract_program(fenced("def f(x): return 0\n") + "Better:\n" + fenced(PROGRAM)) == PROGRAM


@pytest.mark.parametrize(
    "after",
    [fenced("print(f(1))\n"), fenced("f(1)\n", ""), fenced("2\n", "text"), fenced("def g(): pass\n", "bash")],
)
def test_usage_and_output_after_the_program_are_not_the_program(after: str):
    assert extract_program(fenced(PROGRAM) + after) == PROGRAM


def test_a_definition_without_a_tag_goes_before_usage_with_one():
    assert extract_program(fenced(PROGRAM, "") + fenced("print(f(1))\n")) == PROGRAM


def test_a_script_that_reads_its_input_is_a_program():
    script = "a, b = map(int, input().split())\nprint(a + b)\n"
    assert extract_program(fenced(PROGRAM) + fenced(script)) == script


def test_a_block_without_definitions_counts_where_there_is_no_other():
    assert extract_program(fenced("print(1)\n")) == "print(1)\n"


def test_a_cut_block_counts_only_where_none_is_complete():
    cut = "```python\ndef f(x):\n    return x"
    assert extract_program(fenced(PROGRAM) + cut) == PROGRAM
    assert extract_program(cut) == "def f(x):\n    return x\n"


def test_plain_code_is_taken_as_it_is():
    assert extract_program(PROGRAM) == PROGRAM


@pytest.mark.parametrize("response", ["", "  \n\t\n", "```python\n```", "```\n\n\n```\n", "\r\n"])
def test_nothing_is_none(response: str):
    assert extract_program(response) is None


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_other_line_ends_become_newlines(end: str):
    assert extract_program(fenced(PROGRAM).replace("\n", end)) == PROGRAM


def test_an_indented_block_loses_its_indentation():
    indented = "".join(f"   {line}\n" for line in fenced(PROGRAM).splitlines())
    assert extract_program(f"1. The program:\n\n{indented}") == PROGRAM


def test_a_fence_inside_a_docstring_or_of_other_marks_does_not_end_the_block():
    inner = 'def f(x):\n    """\n    ```\n    f(1)\n    ```\n    """\n~~~\n    return x\n'
    assert extract_program(fenced(inner)) == inner


def test_a_longer_fence_holds_a_shorter_one():
    inner = fenced(PROGRAM)
    assert extract_program(fenced(inner, "", "````")) == inner


def test_inline_code_is_no_fence():
    assert extract_program("Use ```f(1)``` here.\n" + fenced(PROGRAM)) == PROGRAM
