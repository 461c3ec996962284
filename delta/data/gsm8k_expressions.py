"""Real arithmetic: the expressions that GSM8K's authors annotated inside their worked solutions.

A solution may contain `<<48/2=24>>`; what stands between the double angle brackets becomes the problem `48/2=` with the
answer `24`. Extracted when a run starts; no row of the data set is kept in the project.
"""

import json
import re
from pathlib import Path

from delta.data.problems import Problem
from delta.errors import DataError

_ANNOTATION = re.compile(r"<<([^<>=]+)=([^<>=]+)>>")
_SIMPLE = re.compile(r"\d{1,3}[-+*/]\d{1,3}")
_VALUE = re.compile(r"-?\d+")


def read_gsm8k_expressions(path: str | Path) -> list[Problem]:
    """Extract the annotated expressions from the `solution` fields of a GSM8K file.

    Taken are the simple ones: one operation on whole numbers of up to three digits, with a whole result. They are about
    half of all annotations, and what a model of a million parameters can be expected to learn.

    Args:
        path: GSM8K as JSON lines with a field `solution`.

    Returns:
        One problem per annotation, repetitions included, in file order.

    Raises:
        DataError: The file cannot be read, or a line has no text field `solution`.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"data.path={path}: {error}. Expected GSM8K as JSON lines.") from error
    problems: list[Problem] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            solution = json.loads(line)["solution"]
            if not isinstance(solution, str):
                raise TypeError(f"solution is {solution!r}")
        except (ValueError, RecursionError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}, line {number}: {type(error).__name__} {error}. Expected a GSM8K row with a 'solution'."
            ) from error
        for place, (expression, value) in enumerate(_ANNOTATION.findall(solution)):
            expression, value = expression.replace(" ", ""), value.replace(",", "").strip()
            if _SIMPLE.fullmatch(expression) and _VALUE.fullmatch(value):
                problems.append(Problem(f"{path.stem}-{number}.{place}", f"{expression}=", value))
    if not problems:
        raise DataError(f"data.path={path}: no annotation <<expression=value>> found. Expected GSM8K's solutions.")
    return problems
