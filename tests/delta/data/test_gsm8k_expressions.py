import json
from pathlib import Path

import pytest

from delta.data.gsm8k_expressions import read_gsm8k_expressions
from delta.data.problems import Problem
from delta.errors import DataError


def write(folder: Path, *solutions: object) -> Path:
    path = folder / "school.jsonl"
    path.write_text("".join(json.dumps({"solution": solution}) + "\n" for solution in solutions), encoding="utf-8")
    return path


def pairs(path: Path) -> list[tuple[str, str]]:
    return [(problem.prompt, problem.answer) for problem in read_gsm8k_expressions(path)]


def test_annotations_become_problems_in_file_order(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "Mia bakes 3*8 = <<3*8=24>>24 buns and eats two: 24-2 = <<24-2=22>>22.\n#### 22",
        "Half of 18 is <<18/2=9>>9 metres.\n#### 9",
    )
    assert read_gsm8k_expressions(path) == [
        Problem("school-1.0", "3*8=", "24"),
        Problem("school-1.1", "24-2=", "22"),
        Problem("school-2.0", "18/2=", "9"),
    ]


@pytest.mark.parametrize(
    ("annotation", "problem"),
    [
        ("<<3 + 4 = 7>>", ("3+4=", "7")),
        ("<<600*2=1,200>>", ("600*2=", "1200")),
        ("<< 100 - 1 = 99 >>", ("100-1=", "99")),
        ("<<3-5=-2>>", ("3-5=", "-2")),
    ],
)
def test_spellings_of_an_annotation(annotation: str, problem: tuple[str, str], tmp_path: Path) -> None:
    assert pairs(write(tmp_path, f"so {annotation}x")) == [problem]


@pytest.mark.parametrize(
    "annotation",
    [
        "<<2*x=6>>",
        "<<3*4=12 buns>>",
        "<<3+4=5+2>>",
        "<<1+2=3=3>>",
        "<<(3+4)*2=14>>",
        "<<1+2+3=6>>",
        "<<1/4=.25>>",
        "<<.5*10=5>>",
        "<<1000*2=2000>>",
        "<<5=5>>",
        "<<50%*8=4>>",
        "<<=3>>",
        "<<3+4>>",
        "<3+4=7>",
    ],
)
def test_all_but_simple_annotations_are_left_out(annotation: str, tmp_path: Path) -> None:
    assert pairs(write(tmp_path, f"{annotation} and <<1+1=2>>2")) == [("1+1=", "2")]


def test_repetitions_are_kept_and_have_ids_of_their_own(tmp_path: Path) -> None:
    problems = read_gsm8k_expressions(write(tmp_path, "<<1+1=2>>2 <<1+1=2>>2", "<<1+1=2>>2"))
    assert len(problems) == 3
    assert len({problem.id for problem in problems}) == 3


def test_blank_lines_and_other_fields_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "school.jsonl"
    path.write_text('\n{"question": "q", "solution": "<<1+1=2>>2"}\n\n', encoding="utf-8")
    assert [problem.id for problem in read_gsm8k_expressions(path)] == ["school-2.0"]


@pytest.mark.parametrize(
    "line",
    ["no JSON", "[1]", "7", '"text"', "null", '{"answer": "<<1+1=2>>2"}', '{"solution": null}', '{"solution": 7}'],
)
def test_bad_line_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "school.jsonl"
    path.write_text('{"solution": "<<1+1=2>>2"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 2"):
        read_gsm8k_expressions(path)


def test_file_without_annotations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no annotation"):
        read_gsm8k_expressions(write(tmp_path, "just words"))


def test_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.jsonl"):
        read_gsm8k_expressions(tmp_path / "absent.jsonl")
