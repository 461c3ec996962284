"""Model, memory, data and the known verdict, with inputs that cannot work."""

import json

import pytest

from launch.doctor import inputs
from launch.doctor.check import Status
from tests.launch.test_conf import composed


def test_a_model_that_is_not_there_is_told_once():
    config = composed("model=pretrained", "model.path=./nowhere")
    found = inputs.model(config)
    assert found.status is Status.failed
    assert "./nowhere is no model" in found.seen
    assert inputs.memory(config).status is Status.skipped
    assert inputs.data(config).status is Status.skipped


def test_a_model_on_disk_and_one_that_is_made(make_model):
    assert inputs.model(composed("model=pretrained", f"model.path={make_model()}")).status is Status.ok
    assert "taught when the run starts" in inputs.model(composed()).seen
    assert "max_model_len=4096" in inputs.model(composed("rollout.max_model_len=4096")).seen


def test_a_plan_that_does_not_fit():
    assert inputs.memory(composed("cluster.host_memory_gib=100")).status is Status.ok
    found = inputs.memory(composed("cluster.host_memory_gib=0.5"))
    assert found.status is Status.failed
    assert "What would help" in found.seen


def test_a_plan_for_a_cluster_is_held_against_what_the_cluster_has(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    submitted = ("cluster=slurm", "cluster.num_gpus=4")
    # As before a run: an engine takes at least its share of a GPU, 0.85.
    assert "an engine's GPU 68.1 of 80.0 GiB" in inputs.memory(composed(*submitted, "cluster.gpu_memory_gib=80")).seen
    assert "What would help" in inputs.memory(composed(*submitted, "cluster.gpu_memory_gib=0.01")).seen


def test_a_learner_that_needs_a_compiler(monkeypatch):
    assert inputs.learner(composed()).status is Status.ok
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler" in inputs.learner(composed("learner.compile=true")).seen


@pytest.fixture
def problems(tmp_path):
    def write(*rows: dict[str, str]) -> list[str]:
        path = tmp_path / "problems.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        return ["data=jsonl", f"data.path={path}", "data.held_out=1"]

    return write


def test_problems_that_can_be_read(problems):
    found = inputs.data(composed(*problems({"prompt": "1+1=", "answer": "2"}, {"prompt": "1+2=", "answer": "3"})))
    assert found.status is Status.ok
    assert "1 problems, 1 held out, prompts of up to 4 tokens" in found.seen


def test_problems_that_nobody_can_score(problems):
    rows = ({"prompt": "1+1=", "answer": "2"}, {"prompt": "1+2=", "answer": "\\frac{1}{"})
    found = inputs.data(composed(*problems(*rows)))
    assert found.status is Status.warning
    assert "1 of 2 reference answers cannot be read" in found.seen


def test_problems_that_are_none(problems):
    found = inputs.data(composed(*problems({"prompt": "1+1="})))
    assert found.status is Status.failed
    assert "line 1" in found.seen


def test_a_known_answer_is_scored_by_a_real_worker(problems):
    assert inputs.known_verdict(composed()).status is Status.ok
    broken = inputs.known_verdict(composed("reward.parts.correctness.function=no_such_module.part"))
    assert broken.status is Status.failed
    assert "no_such_module" in broken.seen
    assert inputs.known_verdict(composed("verifier=remote")).status is Status.skipped
