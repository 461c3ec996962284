import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from delta.data.held_out import is_reserved
from delta.data.problems import Overlong, Problem, encode_problems, hold_out, read_jsonl
from delta.errors import DataError


def write(folder: Path, text: str) -> Path:
    path = folder / "tasks.jsonl"
    path.write_text(text, encoding="utf-8")
    return path


def many(count: int, *, prefix: str = "question") -> list[Problem]:
    return [Problem(str(index), f"{prefix} {index}", str(index)) for index in range(count)]


def letters(text: str) -> list[int]:
    return [ord(character) for character in text]


GOOD = '{"prompt": "2+2=", "answer": "4"}\n'


def test_problems_come_in_file_order(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + '\n   \n{"id": "seven", "prompt": "3+4=", "answer": "7", "more": 1}\n')
    assert read_jsonl(path) == [Problem("tasks-1", "2+2=", "4"), Problem("seven", "3+4=", "7")]


def test_default_id_is_the_line_number_also_after_blank_lines(tmp_path: Path) -> None:
    assert [problem.id for problem in read_jsonl(write(tmp_path, "\n\n" + GOOD + "\n" + GOOD))] == [
        "tasks-3",
        "tasks-5",
    ]


def test_last_line_needs_no_line_end_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "windows.jsonl"
    path.write_bytes(GOOD.replace("\n", "\r\n").encode() * 2 + GOOD.strip().encode())
    assert len(read_jsonl(path)) == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2+2=4", "not JSON"),
        ('{"prompt": "a", "answer": "b"', "not JSON"),
        ("[1, 2]", "a JSON list, not an object"),
        ('"text"', "a JSON str, not an object"),
        ("null", "a JSON NoneType, not an object"),
        ('{"prompt": "a"}', "no field 'answer'"),
        ('{"question": "a", "answer": "b"}', "no field 'prompt'"),
        ("{}", "no field 'prompt'"),
        ('{"prompt": "a", "answer": true}', "answer is True"),
        ('{"prompt": "a", "answer": null}', "answer is None"),
        ('{"prompt": "a", "answer": ""}', "answer is ''"),
        ('{"prompt": "a", "answer": "  "}', "answer is '  '"),
        ('{"prompt": "a", "answer": ["b"]}', "answer is"),
        ('{"prompt": "", "answer": "b"}', "prompt is ''"),
        ('{"prompt": false, "answer": "b"}', "prompt is False"),
    ],
)
def test_bad_line_is_named(line: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "\n" + line + "\n" + GOOD)
    with pytest.raises(DataError) as caught:
        read_jsonl(path)
    assert f"{path}, line 3: " in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "line", ['{"prompt": "a", "answer": ' + "9" * 5000 + "}", "[" * 100_000], ids=["digits", "depth"]
)
def test_line_that_pythons_parser_gives_up_on_is_named(line: str, tmp_path: Path) -> None:
    # json.loads answers with a plain ValueError (too many digits) and a RecursionError (too deep).
    with pytest.raises(DataError, match="line 2"):
        read_jsonl(write(tmp_path, GOOD + line + "\n"))


@pytest.mark.parametrize("text", ["", "\n\n  \n"])
def test_file_without_problems_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no problem"):
        read_jsonl(write(tmp_path, text))


def test_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.jsonl"):
        read_jsonl(tmp_path / "absent.jsonl")


def test_folder_and_binary_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Expected a readable UTF-8 file"):
        read_jsonl(tmp_path)
    binary = tmp_path / "binary.jsonl"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="UTF-8"):
        read_jsonl(binary)


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\u000b"])
def test_unicode_line_separators_inside_a_string_do_not_split_it(separator: str, tmp_path: Path) -> None:
    prompt = f"first{separator}second"
    row = json.dumps({"prompt": prompt, "answer": "1"}, ensure_ascii=separator == "\u000b")
    assert [problem.prompt for problem in read_jsonl(write(tmp_path, row + "\n" + GOOD))] == [prompt, "2+2="]


@pytest.mark.parametrize(("answer", "text"), [("4", "4"), ("-2.5", "-2.5"), ("0", "0"), ('" 4 "', " 4 ")])
def test_numbers_are_answers_too(answer: str, text: str, tmp_path: Path) -> None:
    (problem,) = read_jsonl(write(tmp_path, f'{{"prompt": "a", "answer": {answer}}}'))
    assert problem.answer == text


def test_accents_and_other_scripts_survive(tmp_path: Path) -> None:
    (problem,) = read_jsonl(write(tmp_path, '{"prompt": "Größe von \\u03c0 等于?", "answer": "3,14"}'))
    assert problem.prompt == "Größe von \u03c0 等于?"


def test_split_shares_no_prompt_and_loses_none() -> None:
    problems = many(400)
    split = hold_out(problems, count=8)
    assert len(split.held_out) == 8
    assert {problem.prompt for problem in split.train}.isdisjoint(problem.prompt for problem in split.held_out)
    assert sorted(split.train + split.held_out, key=lambda problem: int(problem.id)) == problems


def test_held_out_problems_are_reserved_ones() -> None:
    assert all(is_reserved(problem.prompt) for problem in hold_out(many(400), count=8).held_out)


def test_split_does_not_depend_on_the_order_of_the_file() -> None:
    problems = many(100)
    shuffled = random.Random(0).sample(problems, len(problems))
    assert set(hold_out(problems, count=4).held_out) == set(hold_out(shuffled, count=4).held_out)


def test_parts_keep_the_given_order() -> None:
    shuffled = random.Random(0).sample(many(100), 100)
    split = hold_out(shuffled, count=10)
    for part in (split.train, split.held_out):
        assert list(part) == [problem for problem in shuffled if problem in part]


def test_more_problems_only_add_to_the_candidates() -> None:
    # What is measured on in a short file is still never trained on when the file grows, if all reserved are held out.
    few = hold_out(many(50), count=1000)
    more = hold_out(many(100), count=1000)
    assert set(few.held_out) <= set(more.held_out)


def test_repeated_prompt_is_one_problem_the_first() -> None:
    problems = [*many(50), Problem("again", "question 7", "another answer")]
    split = hold_out(problems, count=10)
    assert len(split.train) + len(split.held_out) == 50
    assert all(problem.id != "again" for problem in split.train + split.held_out)


def test_no_more_than_the_reserved_are_held_out() -> None:
    problems = many(100)
    held_out = hold_out(problems, count=1000).held_out
    assert set(held_out) == {problem for problem in problems if is_reserved(problem.prompt)}


def unreserved(count: int) -> list[Problem]:
    return [problem for problem in many(1000) if not is_reserved(problem.prompt)][:count]


def test_file_without_reserved_problems_gives_up_one() -> None:
    split = hold_out(unreserved(10), count=5)
    assert (len(split.train), len(split.held_out)) == (9, 1)


def test_file_of_reserved_problems_keeps_one_to_train_on() -> None:
    reserved = [problem for problem in many(1000) if is_reserved(problem.prompt)][:5]
    split = hold_out(reserved, count=5)
    assert (len(split.train), len(split.held_out)) == (1, 4)


@pytest.mark.parametrize("problems", [[], many(1), many(1) * 5], ids=["none", "one", "one repeated"])
def test_fewer_than_two_different_problems_are_refused(problems: list[Problem]) -> None:
    with pytest.raises(DataError, match="expected at least 2"):
        hold_out(problems, count=1)


def test_lone_surrogate_is_refused_where_it_is_read_or_can_be_split(tmp_path: Path) -> None:
    # JSON may escape half a surrogate pair; such a text cannot be encoded, so it must not get as far as the hash.
    path = write(tmp_path, GOOD + '{"prompt": "half \\ud800", "answer": "1"}\n')
    with pytest.raises(DataError, match="line 2"):
        hold_out(read_jsonl(path), count=1)


def test_problems_become_prompts() -> None:
    prompts, dropped = encode_problems(many(3, prefix="q"), letters, max_prompt_tokens=10, overlong=Overlong.error)
    assert dropped == []
    assert [prompt.text for prompt in prompts] == ["q 0", "q 1", "q 2"]
    assert prompts[1].token_ids == (ord("q"), ord(" "), ord("1"))
    assert (prompts[1].id, prompts[1].answer) == ("1", "1")


def overlong_problems(long: int = 1) -> list[Problem]:
    return [Problem("short", "abc", "1"), *(Problem(f"long-{i}", "abcdefgh" + "i" * i, "1") for i in range(long))]


def test_prompt_of_exactly_the_limit_fits() -> None:
    problems = overlong_problems()
    prompts, dropped = encode_problems(problems, letters, max_prompt_tokens=8, overlong=Overlong.error)
    assert (len(prompts), dropped) == (2, [])


def test_overlong_prompt_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(DataError) as caught:
        encode_problems(overlong_problems(), letters, max_prompt_tokens=7, overlong=Overlong.error)
    for part in ("1 of 2", "7 tokens", "longest: 8", "long-0", "data.overlong=drop"):
        assert part in str(caught.value)


def test_overlong_error_names_only_a_few() -> None:
    with pytest.raises(DataError, match=r"long-4, \.\.\.\)"):
        encode_problems(overlong_problems(9), letters, max_prompt_tokens=7, overlong=Overlong.error)


def test_overlong_prompts_are_dropped_and_reported_when_asked() -> None:
    problems = overlong_problems(3)
    prompts, dropped = encode_problems(problems, letters, max_prompt_tokens=7, overlong=Overlong.drop)
    assert [prompt.id for prompt in prompts] == ["short"]
    assert dropped == problems[1:]


def test_dropping_every_prompt_is_an_error() -> None:
    with pytest.raises(DataError, match="2 of 2"):
        encode_problems(overlong_problems(2)[1:], letters, max_prompt_tokens=7, overlong=Overlong.drop)


def test_each_prompt_is_encoded_once() -> None:
    seen: list[str] = []

    def encode(text: str) -> Sequence[int]:
        seen.append(text)
        return letters(text)

    encode_problems(many(5), encode, max_prompt_tokens=100, overlong=Overlong.error)
    assert seen == [problem.prompt for problem in many(5)]
