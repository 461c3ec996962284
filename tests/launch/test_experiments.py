"""The paper's experiments: every file with every algorithm composes, keeps what both of them say, and fits its GPUs.

Models are known here by the public sizes of their configurations; no weights are needed to plan for them.
"""

import functools
import json
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from transformers import Olmo3Config, PretrainedConfig, Qwen3Config

from delta.advantages import GroupAdvantageConfig
from delta.aggregations import TokenMeanConfig
from delta.credit import DiscriminativeConfig
from delta.rewards.reward import PartConfig
from delta.surrogates import ClippedConfig
from launch.memory import memory_inputs, memory_limits
from launch.memory_advice import shortage
from launch.overrides import CONF
from launch.preflight import check
from tests.conftest import ROOT
from tests.launch.test_conf import ALGORITHMS, EXPERIMENTS, composed
from workers.controller.config import TrainConfig
from workers.controller.console import RunConsole
from workers.learner.memory_plan import GIB, MemoryPlan, plan_memory
from workers.learner.model_shape import model_shape

QWEN3 = {"vocab_size": 151936, "head_dim": 128, "num_key_value_heads": 8, "max_position_embeddings": 32768}
MODELS: dict[str, PretrainedConfig] = {
    "Qwen/Qwen3-8B-Base": Qwen3Config(
        hidden_size=4096, intermediate_size=12288, num_hidden_layers=36, num_attention_heads=32,
        tie_word_embeddings=False, architectures=["Qwen3ForCausalLM"], **QWEN3,
    ),
    "Qwen/Qwen3-14B-Base": Qwen3Config(
        hidden_size=5120, intermediate_size=17408, num_hidden_layers=40, num_attention_heads=40,
        tie_word_embeddings=False, architectures=["Qwen3ForCausalLM"], **QWEN3,
    ),
    "allenai/Olmo-3-1025-7B": Olmo3Config(
        vocab_size=100278, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
        max_position_embeddings=65536, architectures=["Olmo3ForCausalLM"],
    ),
}  # fmt: skip
"""By the name on the hub that the experiments have."""

GROUPS = ("advantage", "credit", "surrogate", "aggregation")
SMALL = ("laptop", "compare")
NAMES = [path.stem for path in EXPERIMENTS]
PAPER = [name for name in NAMES if name not in SMALL]
METHODS = [path.stem for path in ALGORITHMS]

at_composition = functools.cache(composed)


def run(experiment: str, algorithm: str = "delta", *more: str) -> TrainConfig:
    return at_composition(f"experiment={experiment}", f"algorithm={algorithm}", *more)


@functools.cache
def shape(path: str):
    return model_shape(MODELS[path])


def plan_of(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> MemoryPlan:
    monkeypatch.setattr("launch.memory.model_shape", lambda _: shape(config.model.path))
    gpu_bytes = memory_limits(config).device
    return plan_memory(memory_inputs(config, MODELS[config.model.path], gpu_bytes=gpu_bytes))


def test_there_are_experiments_of_the_paper():
    assert set(PAPER) >= {"qwen3_8b_deepmath", "qwen3_14b_deepmath", "olmo3_7b_deepmath", "qwen3_8b_code"}
    assert any(run(name).nodes > 1 for name in PAPER)
    assert {run(name).model.path for name in PAPER} == set(MODELS)


@pytest.mark.parametrize("algorithm", METHODS)
@pytest.mark.parametrize("experiment", NAMES)
def test_neither_experiment_nor_algorithm_overrides_the_other(experiment: str, algorithm: str):
    found, alone, with_delta = run(experiment, algorithm), run("laptop", algorithm), run(experiment)
    assert found.label == algorithm
    for group in GROUPS:
        chosen = getattr(alone, group)
        if group == "aggregation" and hasattr(chosen, "length"):  # the longest rollout, which is the experiment's
            chosen = replace(chosen, length=found.rollout.max_new_tokens)
        assert getattr(found, group) == chosen
    for field in fields(TrainConfig):
        if field.name not in (*GROUPS, "label"):
            assert getattr(found, field.name) == getattr(with_delta, field.name)


@pytest.mark.parametrize("algorithm", METHODS)
@pytest.mark.parametrize("experiment", PAPER)
def test_every_run_of_the_paper_fits_the_gpus_it_names(experiment: str, algorithm: str, monkeypatch):
    config = replace(run(experiment, algorithm), dry_run=True)
    assert config.cluster.num_gpus == 8
    limits = memory_limits(config)
    assert limits.device
    assert limits.host
    plan = plan_of(config, monkeypatch)
    assert shortage(plan, limits) is None
    for node in plan.placement:  # no GPU is left idle
        engines = len(node.engines) * config.rollout.tensor_parallel_size
        assert len(node.learner_ranks) + engines == config.cluster.num_gpus


def test_sizes_are_the_published_ones():
    billions = {path: round(shape(path).parameters / 1e9, 2) for path in MODELS}
    assert billions == {"Qwen/Qwen3-8B-Base": 8.19, "Qwen/Qwen3-14B-Base": 14.77, "allenai/Olmo-3-1025-7B": 7.3}


def section(title: str) -> str:
    """Of the page that walks through the experiments."""
    return re.split(r"^## ", (ROOT / "docs" / "paper.md").read_text(encoding="utf-8").split(f"## {title}\n")[1])[0]


SMALLER_GPUS = re.findall(
    r"^\| `experiment=(\w+)` \| (\d+) \| (\d+) \| (\d+) \| `([^`]*)` \|$", section("GPUs with 80 GB"), re.MULTILINE
)


@pytest.mark.parametrize("row", SMALLER_GPUS, ids=lambda row: row[0])
def test_what_the_page_says_fits_smaller_gpus_does(row, monkeypatch):
    experiment, *sizes, settings = row
    config = replace(run(experiment, "delta", *settings.split()), dry_run=True)
    limits = memory_limits(config)
    assert limits.device == 79 * GIB
    plan = plan_of(config, monkeypatch)
    assert shortage(plan, limits) is None
    assert [f"{size / GIB:.0f}" for size in (plan.learner_device, plan.engine_device, plan.host)] == sizes
    first, *others = settings.split()
    unchanged = replace(run(experiment, "delta", first), dry_run=True)
    assert (shortage(plan_of(unchanged, monkeypatch), limits) is not None) == bool(others)


def test_the_page_knows_all_experiments():
    assert {experiment for experiment, *_ in SMALLER_GPUS} == set(PAPER)


@pytest.mark.parametrize(
    ("experiment", "path", "steps"),
    [
        ("qwen3_8b_deepmath", "Qwen/Qwen3-8B-Base", 220),
        ("qwen3_14b_deepmath", "Qwen/Qwen3-14B-Base", 300),
        ("qwen3_14b_deepmath_4nodes", "Qwen/Qwen3-14B-Base", 300),
    ],
)
def test_the_settings_are_the_papers(experiment: str, path: str, steps: int):
    config = run(experiment)
    rollout, learner = config.rollout, config.learner
    assert (config.model.path, config.model.dtype, config.steps) == (path, "bfloat16", steps)
    assert (rollout.prompts_per_step, rollout.group_size) == (128, 16)
    assert rollout.prompts_per_step // learner.updates_per_step == 32
    assert learner.updates_per_step == 4
    assert rollout.max_new_tokens == 20_480
    assert rollout.max_model_len - rollout.max_new_tokens == 2_048
    assert rollout.temperature == 1.0
    assert rollout.max_refills == 0
    assert (learner.learning_rate, learner.weight_decay, learner.max_grad_norm) == (1e-6, 0.1, 1.0)
    assert (config.regularization.kl, config.regularization.entropy) == (0.0, 0.0)
    assert config.surrogate == ClippedConfig(epsilon_low=0.2, epsilon_high=0.28, dual_clip=10.0)
    assert type(config.aggregation) is TokenMeanConfig
    assert config.advantage == GroupAdvantageConfig(normalize_std=True)
    assert config.reward.parts == {
        "correctness": PartConfig(function="delta.rewards.parts.correctness", weight=1.0),
        "overlong": PartConfig(function="delta.rewards.parts.overlong", weight=1.0, options={"buffer": 4096}),
    }
    assert config.cluster.num_gpus * config.nodes == (32 if "4nodes" in experiment else 8)
    assert isinstance(config.credit, DiscriminativeConfig)
    assert config.credit.refinements == 1
    assert (config.credit.lambda_min, config.credit.lambda_max) == (0.8, 1.2)


@pytest.mark.parametrize("algorithm", METHODS)
def test_every_method_has_a_folder_of_its_own(algorithm: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", overrides=["experiment=qwen3_14b_deepmath", f"algorithm={algorithm}", "seed=3"])
    assert config.run_dir == f"runs/qwen3_14b_deepmath/{algorithm}/seed3"


@pytest.mark.parametrize("cluster", ["local", "slurm", "kuberay"])
def test_what_a_node_has_is_said_whoever_schedules_it(cluster: str):
    here, there = (run("qwen3_14b_deepmath_4nodes", "delta", f"cluster={name}") for name in ("local", cluster))
    for field in fields(here.cluster):
        assert getattr(there.cluster, field.name) == getattr(here.cluster, field.name)
    assert there.cluster.num_gpus == 8


ROWS = {
    "code": {"prompt": "Read a number and print the next.", "tests": [{"input": "4\n", "output": "5\n"}]},
    "deepmath": {"question": "What is $1+1$?", "final_answer": "$2$", "r1_solution_1": "..."},
    "benchmark": {"id": "one", "prompt": "What is $2+2$?", "answer": 4},
}


def write(path: Path, *rows: dict[str, object]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("experiment", PAPER)
def test_a_dry_run_needs_a_config_json_and_the_problems(experiment: str, tmp_path: Path, capsys):
    name = run(experiment).model.path
    MODELS[name].save_pretrained(tmp_path / "model")
    math = "deepmath" in experiment
    rows = (
        [ROWS["deepmath"]] if math else [ROWS["code"], {**ROWS["code"], "prompt": "Read a number. Print its double."}]
    )
    settings = [f"model.path={tmp_path / 'model'}", f"data.path={write(tmp_path / 'train.jsonl', *rows)}"]
    if math:
        settings.append(f"data.held_out_path={write(tmp_path / 'held_out.jsonl', ROWS['benchmark'])}")
    assert check(run(experiment, "delta", "dry_run=true", *settings), RunConsole()) is None
    said = capsys.readouterr().out
    assert "Memory plan" in said
    assert "no tokenizer" in said
    assert not (tmp_path / "somewhere").exists()
