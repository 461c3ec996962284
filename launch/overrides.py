"""Command-line overrides that do not fit the configuration: says which key was meant instead of only refusing."""

import dataclasses
import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from delta.errors import ConfigError
from launch.schema import VARIANTS

MULTIRUN = ("-m", "--multirun")

CONF = Path(__file__).parent.parent / "conf"


def check_overrides(arguments: Sequence[str], *, config_name: str) -> None:
    """Compose once before Hydra does, to explain what does not fit.

    Args:
        arguments: The command line; flags are Hydra's own business.
        config_name: The primary configuration.

    Raises:
        ConfigError: An override names no key or variant, its value has the wrong type, or there are several values and
            nobody asked for several runs.
    """
    overrides = [argument for argument in arguments if argument not in MULTIRUN]
    if any(argument.startswith("-") for argument in overrides):
        return
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            samples, swept = _samples(overrides)
            for sample in samples:
                composed = compose(config_name, overrides=sample, return_hydra_config=True)
            if swept and len(overrides) == len(arguments) and composed.hydra.mode is not RunMode.MULTIRUN:
                raise ConfigError(f"{swept[0]} names several values: add --multirun to start a run with each of them.")
        except (HydraException, OmegaConfBaseException) as error:
            seen = _seen(error)
            advice = _advice(seen, compose(config_name))
            raise ConfigError(f"{'. '.join(seen)}.{advice} See the whole configuration with --cfg job.") from error
        finally:
            GlobalHydra.instance().clear()


def _samples(overrides: Sequence[str]) -> tuple[list[list[str]], list[str]]:
    """Runs that hold every value of a sweep at least once, and the overrides that have several values."""
    choices: list[list[str]] = []
    for text, override in zip(overrides, OverridesParser.create().parse_overrides(list(overrides)), strict=True):
        values = override.sweep_string_iterator() if override.is_sweep_override() else None
        choices.append([f"{override.get_key_element()}={value}" for value in values] if values else [text])
    runs = max((len(values) for values in choices), default=1)
    samples = [[values[min(run, len(values) - 1)] for values in choices] for run in range(runs)]
    return samples, [text for text, values in zip(overrides, choices, strict=True) if len(values) > 1]


_NOISE = ("To append", "object_type=", "reference_type=", "full_key:", "Config search path", "provider=")


def _seen(error: BaseException) -> list[str]:
    """What Hydra and OmegaConf say, without what only their developers need."""
    lines = str(error).splitlines()
    if error.__cause__ is not None:
        lines += str(error.__cause__).splitlines()
    cleaned = (line.strip().rstrip(".").removeprefix("In 'train': ").removeprefix("In 'verify': ") for line in lines)
    kept = [line for line in cleaned if line and not line.startswith(_NOISE) and not line.endswith("_schema")]
    return list(dict.fromkeys(kept))


def _advice(seen: Sequence[str], config: DictConfig) -> str:
    """The closest existing key, or the variant that has the key."""
    key = re.search(r"Could not override '([^']+)'", " ".join(seen))
    if not key:
        return ""
    wanted = key.group(1)
    group, _, name = wanted.partition(".")
    owners = [
        f"{group}={variant}"
        for variant, schema in VARIANTS.get(group, {}).items()
        if name in {field.name for field in dataclasses.fields(schema)}
    ]
    if owners:
        return f" It belongs to {' and '.join(owners)}."
    names = {*_keys(OmegaConf.to_container(config), ""), *_variant_keys()}
    close = difflib.get_close_matches(wanted, names, n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(close)}?" if close else ""


def _variant_keys() -> Iterator[str]:
    """The keys of every variant, chosen or not."""
    for group, variants in VARIANTS.items():
        for schema in variants.values():
            yield from (f"{group}.{field.name}" for field in dataclasses.fields(schema))


def _keys(node: Any, prefix: str) -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield f"{prefix}{name}"
            yield from _keys(value, f"{prefix}{name}.")
