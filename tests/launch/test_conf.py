"""Every file of conf/ composes into the dataclass it names."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from launch.overrides import CONF
from launch.schema import VARIANTS, register
from workers.controller.config import TrainConfig

register()
FILES = sorted(path for path in CONF.glob("*/*.yaml") if path.parent.name != "experiment")
EXPERIMENTS = sorted((CONF / "experiment").glob("*.yaml"))


def composed(*overrides: str) -> TrainConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_object(compose("train", overrides=[*overrides, "run_dir=somewhere"]))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}={path.stem}")
def test_a_variant_composes_into_its_schema(path: Path):
    config = composed(f"{path.parent.name}={path.stem}")
    assert type(config) is TrainConfig
    assert type(getattr(config, path.parent.name)) is VARIANTS[path.parent.name][path.stem]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_composes(path: Path):
    assert type(composed(f"experiment={path.stem}")) is TrainConfig


def test_every_variant_has_a_file():
    assert {(path.parent.name, path.stem) for path in FILES} == {
        (group, name) for group, variants in VARIANTS.items() for name in variants
    }
