"""Every file of conf/ composes into the dataclass it names."""

import importlib
import itertools
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from delta.advantages import AdvantageConfig
from launch.overrides import CONF
from launch.schema import VARIANTS, register, variants_in
from workers.controller.config import TrainConfig

register()
OVERLAYS = ("experiment", "algorithm")
FILES = sorted(path for path in CONF.glob("*/*.yaml") if path.parent.name not in OVERLAYS)
EXPERIMENTS = sorted((CONF / "experiment").glob("*.yaml"))
ALGORITHMS = sorted((CONF / "algorithm").glob("*.yaml"))


def composed(*overrides: str) -> TrainConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_object(compose("train", overrides=["run_dir=somewhere", *overrides]))


def schema_of(path: Path) -> str:
    """The variant that a file configures; several may configure one."""
    return OmegaConf.load(path)["defaults"][0].removesuffix("_schema")


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}={path.stem}")
def test_a_variant_composes_into_its_schema(path: Path):
    config = composed(f"{path.parent.name}={path.stem}")
    assert type(config) is TrainConfig
    assert type(getattr(config, path.parent.name)) is VARIANTS[path.parent.name][schema_of(path)]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_composes(path: Path):
    assert type(composed(f"experiment={path.stem}")) is TrainConfig


@pytest.mark.parametrize("path", ALGORITHMS, ids=lambda path: path.stem)
def test_an_algorithm_names_itself_and_chooses_from_all_four_groups(path: Path):
    config = composed(f"algorithm={path.stem}")
    assert config.label == path.stem
    chosen = {key for entry in OmegaConf.load(path)["defaults"] for key in entry}
    assert chosen == {f"override /{group}" for group in ("advantage", "credit", "surrogate", "aggregation")}
    assert config.algorithm.surrogate is config.surrogate


def test_a_choice_on_the_command_line_beats_the_algorithms():
    config = composed("algorithm=gspo", "credit=discriminative", "aggregation=token_mean")
    assert type(config.credit) is VARIANTS["credit"]["discriminative"]
    assert type(config.aggregation) is VARIANTS["aggregation"]["token_mean"]
    assert type(config.surrogate) is VARIANTS["surrogate"]["gspo"]


def test_every_choice_of_the_four_groups_composes_with_every_other():
    names = [[f"{group}={name}" for name in VARIANTS[group]] for group in ("advantage", "credit", "surrogate")]
    for choices in itertools.product(*names):
        config = composed(*choices, "aggregation=sequence_mean")
        for choice in choices:
            group, name = choice.split("=")
            assert type(getattr(config, group)) is VARIANTS[group][name]


def test_dr_grpo_divides_by_the_longest_rollout():
    assert composed("algorithm=dr_grpo", "rollout.max_new_tokens=77").aggregation.length == 77


def test_every_variant_has_a_file():
    assert {(path.parent.name, schema_of(path)) for path in FILES} == {
        (group, name) for group, variants in VARIANTS.items() for name in variants
    }
    assert {path.stem for path in FILES} >= {name for variants in VARIANTS.values() for name in variants}


def test_two_variants_in_one_module_are_refused(tmp_path, monkeypatch):
    package = tmp_path / "doubled"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "one.py").write_text(
        "from delta.advantages import AdvantageConfig\n"
        "class A(AdvantageConfig):\n    def advantages(self, rewards, judged): return rewards\n"
        "class B(A): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TypeError, match="give each a module of its own"):
        variants_in(importlib.import_module("doubled"), AdvantageConfig)
