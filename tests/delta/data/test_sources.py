import json
from pathlib import Path

import pytest

from delta.data.arithmetic import ArithmeticConfig, arithmetic_problems
from delta.data.problems import read_jsonl
from delta.data.sources import Gsm8kExpressionsConfig, JsonlConfig, load_problems
from delta.errors import ConfigError, DataError


def test_arithmetic_is_generated_from_the_seed() -> None:
    config = ArithmeticConfig(problems=20, held_out=5)
    assert load_problems(config, seed=7) == arithmetic_problems(config, seed=7)


def test_jsonl_is_read_and_split_whatever_the_seed(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"q{i}", "answer": i}) + "\n" for i in range(400)), encoding="utf-8")
    split = load_problems(JsonlConfig(path=str(path), held_out=4), seed=0)
    assert len(split.held_out) == 4
    assert set(split.train + split.held_out) == set(read_jsonl(path))
    assert split == load_problems(JsonlConfig(path=str(path), held_out=4), seed=1)


def test_gsm8k_expressions_are_read_once_each(tmp_path: Path) -> None:
    path = tmp_path / "school.jsonl"
    rows = [{"solution": f"It makes <<{i}+1={i + 1}>>{i + 1}, as said <<{i}+1={i + 1}>>."} for i in range(400)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    split = load_problems(Gsm8kExpressionsConfig(path=str(path), held_out=3), seed=0)
    assert (len(split.train), len(split.held_out)) == (397, 3)


@pytest.mark.parametrize("config", [JsonlConfig(), Gsm8kExpressionsConfig()])
def test_missing_path_is_a_config_error(config: JsonlConfig | Gsm8kExpressionsConfig) -> None:
    with pytest.raises(ConfigError, match=r"data\.path is empty"):
        load_problems(config, seed=0)


@pytest.mark.parametrize("kind", [JsonlConfig, Gsm8kExpressionsConfig])
def test_absent_file_is_a_data_error(kind: type[JsonlConfig | Gsm8kExpressionsConfig], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.jsonl"):
        load_problems(kind(path=str(tmp_path / "absent.jsonl")), seed=0)


def test_a_file_may_have_names_of_its_own_and_a_template(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    rows = [{"question": "1+1", "final_answer": "2", "id": "own"}, {"prompt": "{1}+2", "answer": "3", "question": "?"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    template = "Work out {prompt} into \\boxed{}:"
    config = JsonlConfig(path=str(path), fields={"prompt": "question", "answer": "final_answer"}, template=template)
    problems = read_jsonl(path, fields=config.fields, template=config.template)
    assert [(problem.id, problem.prompt, problem.answer) for problem in problems] == [
        ("own", "Work out 1+1 into \\boxed{}:", "2"),
        ("tasks-2", "Work out {1}+2 into \\boxed{}:", "3"),
    ]
    assert {problem.prompt for problem in load_problems(config, seed=0).train} < {p.prompt for p in problems}
    with pytest.raises(DataError, match=r"line 1: no field 'prompt' or 'problem', only"):
        read_jsonl(path, fields={"prompt": "problem"})


def test_what_is_measured_on_may_have_a_file_of_its_own(tmp_path: Path) -> None:
    path, apart = tmp_path / "train.jsonl", tmp_path / "measured.jsonl"
    for file, names in ((path, "abcab"), (apart, "cxx")):
        file.write_text("".join(json.dumps({"prompt": name, "answer": 1}) + "\n" for name in names), encoding="utf-8")
    split = load_problems(JsonlConfig(path=str(path), held_out_path=str(apart)), seed=0)
    assert [problem.id for problem in split.train] == ["train-1", "train-2"]
    assert [problem.id for problem in split.held_out] == ["measured-1", "measured-2"]
    with pytest.raises(DataError, match=r"every problem is also in data\.held_out_path"):
        load_problems(JsonlConfig(path=str(apart), held_out_path=str(apart)), seed=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"template": "no place"}, r"expected a text with \{prompt\}"), ({"fields": {"promt": "q"}}, r"\['promt'\]")],
)
def test_a_source_that_cannot_work_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JsonlConfig(**settings)
