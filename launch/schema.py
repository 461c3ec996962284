"""Registers the owners' dataclasses with Hydra: one schema per variant of a config group.

A file `conf/credit/discriminative.yaml` begins with `defaults: [discriminative_schema]`, so its keys and types are
those of `DiscriminativeConfig`; unknown keys are refused when the configuration is composed.
"""

from hydra.core.config_store import ConfigStore

from delta.advantages import GroupAdvantageConfig
from delta.credit import DiscriminativeConfig, UniformConfig
from delta.data.arithmetic import ArithmeticConfig
from delta.data.sources import Gsm8kExpressionsConfig, JsonlConfig
from delta.losses import ClippedConfig
from workers.controller.config import TrainConfig
from workers.warm_start.config import PretrainedModelConfig, WarmStartModelConfig

VARIANTS: dict[str, dict[str, type]] = {
    "model": {"warm_start": WarmStartModelConfig, "pretrained": PretrainedModelConfig},
    "data": {"arithmetic": ArithmeticConfig, "jsonl": JsonlConfig, "gsm8k_expressions": Gsm8kExpressionsConfig},
    "advantage": {"group": GroupAdvantageConfig},
    "credit": {"discriminative": DiscriminativeConfig, "uniform": UniformConfig},
    "loss": {"clipped": ClippedConfig},
}


def register() -> None:
    """Make all schemas known; to be called before Hydra composes."""
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainConfig)
    for group, variants in VARIANTS.items():
        for name, schema in variants.items():
            store.store(group=group, name=f"{name}_schema", node=schema)
