"""An evaluation: what decides an answer, which are still missing, and the whole command with engines and verifiers."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from delta.errors import ConfigError, DataError
from delta.types import Outcome
from launch.evaluation import Answers, EvalConfig, answer_seed, fingerprint, read_benchmarks, tasks_of
from launch.overrides import CONF
from launch.scores import AnswerRow
from tests.conftest import ROOT
from tests.launch.test_conf import composed
from workers.rollout.config import RolloutConfig
from workers.warm_start.config import PretrainedModelConfig
from workers.warm_start.tokenizer import byte_tokenizer

PROBLEMS = [{"prompt": f"{first}+{first}=", "answer": 2 * first} for first in (12, 34, 41)]


def benchmark(path: Path, rows=PROBLEMS) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def config(tmp_path):
    files = [benchmark(tmp_path / f"{name}.jsonl") for name in ("sums", "more")]
    rollout = RolloutConfig(max_new_tokens=8, max_model_len=64)
    model = PretrainedModelConfig(path="some/model")
    return EvalConfig(model=model, benchmarks=files, output=str(tmp_path / "out"), samples=2, rollout=rollout)


def tasks_for(config: EvalConfig):
    return tasks_of(config, read_benchmarks(config, byte_tokenizer()))


def answer(task, outcome=Outcome.wrong, **changes) -> AnswerRow:
    row = AnswerRow(
        key=task.key, problem=task.prompt.id, sample=task.sample, outcome=outcome, detail="", tokens=3, truncated=False,
        response="é\u2028\n3",
    )  # fmt: skip
    return replace(row, **changes)


def test_the_settings_are_the_papers_and_the_prompts_those_of_training():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        settings = OmegaConf.to_object(compose("eval", overrides=["benchmarks=[a.jsonl]", "output=x"]))
    assert (settings.samples, settings.top_p, settings.rollout.temperature) == (16, 0.7, 1.0)
    assert (settings.rollout.max_new_tokens, settings.model.dtype) == (30_000, "bfloat16")
    assert settings.rollout.max_model_len - settings.rollout.max_new_tokens >= 2_048
    assert settings.template == composed("data=deepmath").data.template


def test_every_answer_has_a_seed_of_its_own_whatever_else_is_measured(config, tmp_path):
    tasks = tasks_for(config)
    assert len({task.request.seed for task in tasks}) == len(tasks) == 12
    assert tasks[0].request.seed == answer_seed(1, "sums", tasks[0].prompt.id, 0)
    assert all(task.request.top_p == 0.7 and task.request.max_new_tokens == 8 for task in tasks)
    alone = replace(config, benchmarks=[config.benchmarks[1]], samples=5)
    reordered = benchmark(
        tmp_path / "more.jsonl", [{**row, "id": f"more-{n}"} for n, row in enumerate(PROBLEMS, 1)][::-1]
    )
    assert reordered == config.benchmarks[1]
    found = {(task.prompt.id, task.sample): task for task in tasks_for(alone)}
    for task in tasks:
        if task.benchmark == "more":
            assert found[task.prompt.id, task.sample] == task


def test_answers_are_kept_by_line_and_what_was_cut_off_is_asked_for_again(config):
    tasks, output = tasks_for(config), Path(config.output)
    answers = Answers(output, tasks)
    for task in tasks[:4]:
        answers.append(task.benchmark, answer(task))
    file = output / "answers" / "sums.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-7])
    again = Answers(output, tasks)
    assert [again.lacks(task) for task in tasks[:5]] == [False, False, False, True, True]
    assert again.of("sums") == [answer(task) for task in tasks[:3]]
    again.append("sums", answer(tasks[3]))
    assert file.read_bytes() == whole
    file.write_bytes(whole.replace(b'"sample": 1', b'"simple": 1', 1))  # damage in the middle takes what follows
    assert [Answers(output, tasks).lacks(task) for task in tasks[:3]] == [False, True, True]


def test_a_failed_verdict_is_tried_again_and_the_last_one_counts(config):
    tasks, output = tasks_for(config), Path(config.output)
    answers = Answers(output, tasks)
    answers.append("sums", answer(tasks[0], Outcome.timeout))
    found = Answers(output, tasks)
    assert not found.lacks(tasks[0])
    assert found.unjudged(tasks[0]) == answer(tasks[0], Outcome.timeout)
    found.append("sums", answer(tasks[0], Outcome.correct))
    assert Answers(output, tasks).unjudged(tasks[0]) is None
    assert Answers(output, tasks).of("sums") == [answer(tasks[0], Outcome.correct)]


def test_fewer_samples_use_fewer_answers_and_more_go_on(config):
    tasks = tasks_for(config)
    answers = Answers(Path(config.output), tasks)
    for task in tasks:
        answers.append(task.benchmark, answer(task))
    fewer, more = (Answers(Path(config.output), tasks_for(replace(config, samples=n))) for n in (1, 3))
    assert len(fewer.of("sums")) == 3
    assert [more.lacks(task) for task in tasks_for(replace(config, samples=3))] == 6 * [False, False, True]


@pytest.mark.parametrize(
    "changes",
    [
        {"model": PretrainedModelConfig(path="another/model")},
        {"model": PretrainedModelConfig(path="some/model", dtype="bfloat16")},
        {"top_p": 0.8},
        {"seed": 2},
        {"template": "Please: {prompt}"},
        {"rollout": RolloutConfig(max_new_tokens=9, max_model_len=64)},
        {"rollout": RolloutConfig(max_new_tokens=8, max_model_len=64, temperature=0.5)},
    ],
    ids=str,
)
def test_answers_of_another_evaluation_are_refused(config, changes):
    tasks = tasks_for(config)
    Answers(Path(config.output), tasks).append("sums", answer(tasks[0]))
    with pytest.raises(ConfigError, match=r"holds answers to sums of another model.*Choose another folder"):
        Answers(Path(config.output), tasks_for(replace(config, **changes)))


def test_engines_and_context_decide_no_answer(config):
    more = RolloutConfig(max_new_tokens=8, max_model_len=128, num_workers=4, max_num_seqs=2)
    assert [task.key for task in tasks_for(replace(config, rollout=more))] == [task.key for task in tasks_for(config)]


def test_models_are_told_apart_by_their_weights(make_model):
    found = [fingerprint(PretrainedModelConfig(path=str(make_model(seed=seed)))) for seed in (0, 1, 0)]
    assert found[0] == found[2] != found[1]


def test_two_problems_of_one_id_are_refused(config, tmp_path):
    benchmark(tmp_path / "sums.jsonl", [{**row, "id": "same"} for row in PROBLEMS])
    with pytest.raises(DataError, match=r"sums\.jsonl: 2 problems have the id of another"):
        read_benchmarks(config, byte_tokenizer())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"benchmarks": []}, "expected files and a folder"),
        ({"output": ""}, "expected files and a folder"),
        ({"benchmarks": ["a/x.jsonl", "b/x.jsonl"]}, "different names"),
        ({"samples": 0}, "expected 1 or more"),
        ({"top_p": 1.5}, r"a share in \(0, 1\]"),
        ({"rollout": RolloutConfig(group_size=4)}, r"rollout\.group_size is for training.*samples=N"),
        ({"template": "none"}, "where the problem goes"),
        ({"fields": {"question": "prompt"}}, r"fields names \['question'\]"),
    ],
)
def test_what_cannot_work_is_refused(config, changes, message):
    with pytest.raises(ValueError, match=message):
        replace(config, **changes)


def evaluate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "launch.evaluate", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, env=dict(os.environ))


def rows_of(output: Path, name: str) -> dict[tuple[str, int], AnswerRow]:
    lines = (output / "answers" / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    rows = [AnswerRow.from_json(line) for line in lines]
    return {(row.problem, row.sample): row for row in rows}


@pytest.mark.ray
@pytest.mark.slow
def test_an_evaluation_that_was_cut_off_ends_with_the_same_answers_on_other_engines(make_model, tmp_path):
    output = tmp_path / "out"
    arguments = [
        f"model.path={make_model()}", "model.dtype=float32", "template='{prompt}'", "samples=4",
        f"benchmarks=[{benchmark(tmp_path / 'sums.jsonl')},{benchmark(tmp_path / 'more.jsonl', PROBLEMS[:2])}]",
        f"output={output}", "rollout.max_new_tokens=8", "rollout.max_model_len=64",
    ]  # fmt: skip
    finished = evaluate(*arguments)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    scores = json.loads((output / "scores.json").read_text())["scores"]
    assert [(row["benchmark"], row["problems"], row["answers"]) for row in scores] == [
        ("sums", 3, 12), ("more", 2, 8), ("average", 5, 20),
    ]  # fmt: skip
    before = {name: rows_of(output, name) for name in ("sums", "more")}
    assert len({row.response for row in before["sums"].values()}) > 4  # seeds of their own
    assert all(row.tokens <= 8 and row.truncated == (row.tokens == 8) for row in before["sums"].values())

    # Cut off in the third line of one file; in the other, the verifier had failed on an answer that is right.
    file = output / "answers" / "sums.jsonl"
    lines = file.read_text(encoding="utf-8").split("\n")
    file.write_text("\n".join([*lines[:2], lines[2][:40]]), encoding="utf-8")
    place, row = next(iter(before["more"].items()))
    right = replace(row, outcome=Outcome.error, response=f"\\boxed{{{PROBLEMS[int(place[0][-1]) - 1]['answer']}}}")
    before["more"][place] = replace(right, outcome=Outcome.correct)
    (output / "answers" / "more.jsonl").write_text(
        "".join(each.as_json() + "\n" for each in [right, *list(before["more"].values())[1:]]), encoding="utf-8"
    )
    finished = evaluate(*arguments, "rollout.num_workers=2")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "9 of 20 answers are there already" in finished.stdout
    for name, rows in before.items():
        found = rows_of(output, name)
        assert {key: replace(each, detail="") for key, each in found.items()} == {
            key: replace(each, detail="") for key, each in rows.items()
        }
    assert file.read_text(encoding="utf-8").split("\n")[:2] == lines[:2]
    assert json.loads((output / "scores.json").read_text())["scores"][1]["accuracy"] >= 1 / 8

    finished = evaluate(*arguments)
    assert finished.returncode == 0
    assert "already" not in finished.stdout  # nothing is started when nothing is missing
    assert "average" in finished.stdout
    refused = evaluate(*arguments, "seed=2")
    assert refused.returncode == 2
    assert "Choose another folder" in refused.stderr
    assert "Traceback" not in refused.stderr
