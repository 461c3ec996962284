"""Registers the owners' dataclasses with Hydra: one schema per variant of a config group.

A file `conf/credit/discriminative.yaml` begins with `defaults: [discriminative_schema]`, so its keys and types are
those of `DiscriminativeConfig`; unknown keys are refused when the configuration is composed. Several files may share a
schema and differ in values: `conf/advantage/dr_grpo.yaml` is `group_schema` without the deviation.

The parts of the algorithm are found, not listed: a module of `delta/credit` with a configuration of its own is a
variant under the name of the module, and so for the other packages. Adding one touches no existing file.
"""

import importlib
import inspect
import pkgutil
from types import ModuleType

from hydra.core.config_store import ConfigStore

import delta.advantages
import delta.aggregations
import delta.credit
import delta.importance
import delta.surrogates
from delta.advantages import AdvantageConfig
from delta.aggregations import AggregationConfig
from delta.credit import CreditConfig
from delta.data.arithmetic import ArithmeticConfig
from delta.data.sources import Gsm8kExpressionsConfig, JsonlConfig
from delta.importance import ImportanceConfig
from delta.rewards import RewardConfig
from delta.surrogates import SurrogateConfig
from launch.evaluation import EvalConfig
from launch.submit.kuberay.config import KubeRayConfig
from launch.submit.slurm.config import SlurmConfig
from launch.sweep.config import ReportConfig
from launch.verification import VerifyConfig
from workers.cluster import ClusterConfig
from workers.controller.config import TrainConfig
from workers.verifier.config import PoolConfig, RemoteConfig
from workers.warm_start.config import PretrainedModelConfig, WarmStartModelConfig


def variants_in(package: ModuleType, base: type) -> dict[str, type]:
    """The concrete configurations of a package by the name of the module that declares them, one per module."""
    found: dict[str, type] = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for _, declared in inspect.getmembers(module, inspect.isclass):
            if (
                declared.__module__ == module.__name__
                and issubclass(declared, base)
                and not inspect.isabstract(declared)
            ):
                if info.name in found:
                    raise TypeError(f"{module.__name__} declares two variants; give each a module of its own")
                found[info.name] = declared
    return found


VARIANTS: dict[str, dict[str, type]] = {
    "model": {"warm_start": WarmStartModelConfig, "pretrained": PretrainedModelConfig},
    "data": {"arithmetic": ArithmeticConfig, "jsonl": JsonlConfig, "gsm8k_expressions": Gsm8kExpressionsConfig},
    "advantage": variants_in(delta.advantages, AdvantageConfig),
    "credit": variants_in(delta.credit, CreditConfig),
    "surrogate": variants_in(delta.surrogates, SurrogateConfig),
    "aggregation": variants_in(delta.aggregations, AggregationConfig),
    "importance": variants_in(delta.importance, ImportanceConfig),
    "reward": {"correctness": RewardConfig},
    "verifier": {"pool": PoolConfig, "remote": RemoteConfig},
    "cluster": {"local": ClusterConfig, "slurm": SlurmConfig, "kuberay": KubeRayConfig},
}


def register() -> None:
    """Make all schemas known; to be called before Hydra composes."""
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainConfig)
    store.store(name="verify_schema", node=VerifyConfig)
    store.store(name="eval_schema", node=EvalConfig)
    store.store(name="report_schema", node=ReportConfig)
    for group, variants in VARIANTS.items():
        for name, schema in variants.items():
            store.store(group=group, name=f"{name}_schema", node=schema)
