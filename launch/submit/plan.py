"""The plan of a submission: everything that will happen, as one record that every backend renders.

`plan_for` makes it from the composed configuration. A backend (`launch.submit.backend`) turns it into files, checks it
against its cluster, and sends it; nothing that a backend does is decided anywhere else.
"""

import dataclasses
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delta.errors import ConfigError
from launch.overrides import quoted
from launch.submit.config import SubmittedConfig
from workers.controller.config import Resume, TrainConfig

MIB_PER_GIB = 1024
READ = ("path", "held_out_path", "resume_from")
"""Settings, of any part, that name a file or folder to read."""
NAME_LENGTH = 45
"""Characters of a job's name; Kubernetes allows few more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What every node is asked for."""

    nodes: int
    cpus: int
    gpus: int
    memory_mib: int
    """0 leaves it to the cluster."""
    object_store_mib: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeShare:
    """Who runs on a node."""

    learner_ranks: tuple[int, ...]
    engines: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarts:
    """What happens when the run is preempted, its time is up, or a node is lost."""

    requeue: bool
    max_requeues: int
    grace_s: float
    """Seconds between the word of the end and the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One submission."""

    name: str
    """Name of the job: lower-case letters, digits and hyphens, at most 45; made from the run folder."""
    run_dir: Path
    """Absolute, and the same on every node."""
    command: tuple[str, ...]
    """The driver, once Ray is up: `delta-train` with the overrides of this submission, and absolute paths."""
    resources: Resources
    placement: tuple[NodeShare, ...]
    """Node by node."""
    environment: Mapping[str, str]
    """Of all processes; holds no secret."""
    image: str
    """Container image; empty runs on the node itself."""
    restarts: Restarts
    ready_timeout_s: float
    work_dir: Path = Path("/")
    """Absolute; where the command was given, with the sources if they are not installed."""
    inputs: tuple[Path, ...] = ()
    """Absolute; local files and folders that the run reads: model, data, a checkpoint to begin with."""

    @property
    def job_dir(self) -> Path:
        """Where rendered files, the token, readiness marks and the log of the job are."""
        return self.run_dir / "job"


def plan_for(config: TrainConfig, overrides: Sequence[str], *, work_dir: Path, is_sweep: bool = False) -> Plan:
    """Decide everything about a submission.

    Args:
        config: The composed configuration; its `run_dir` holds the time of the submission, which the run must not read
            from its own clock.
        overrides: What was said on the command line to get it.
        work_dir: Where; relative paths are meant from here.
        is_sweep: Whether the run is a member of a Hydra sweep.

    Raises:
        ConfigError: It cannot work anywhere.
    """
    cluster = config.cluster
    if cluster.host_memory_gib and cluster.object_store_mib >= cluster.host_memory_gib * MIB_PER_GIB:
        raise ConfigError(
            f"cluster.object_store_mib={cluster.object_store_mib} is memory of the node, of which there is "
            f"cluster.host_memory_gib={cluster.host_memory_gib:g}: expected a part of it. Lower the one or raise the "
            "other."
        )
    run_dir = _absolute(work_dir / config.run_dir)
    inputs = {key: path for key, path in _paths(config, work_dir) if path.exists()}
    submitted = cluster if isinstance(cluster, SubmittedConfig) else None
    max_requeues = submitted.max_requeues if submitted and submitted.requeue else 0
    return Plan(
        name=job_name(run_dir),
        run_dir=run_dir,
        command=("delta-train", *_told(config, overrides, run_dir=run_dir, inputs=inputs, is_sweep=is_sweep)),
        resources=Resources(
            nodes=config.nodes,
            cpus=cluster.num_cpus,
            gpus=cluster.num_gpus,
            memory_mib=int(cluster.host_memory_gib * MIB_PER_GIB),
            object_store_mib=cluster.object_store_mib,
        ),
        placement=tuple(
            NodeShare(learner_ranks=node.learner_ranks, engines=node.engines)
            for node in config.placement(nodes=config.nodes)
        ),
        environment=_environment(submitted, run_dir=run_dir) if submitted else {},
        image=submitted.image if submitted else "",
        restarts=Restarts(
            requeue=max_requeues > 0,
            max_requeues=max_requeues,
            grace_s=submitted.grace_s if submitted else config.faults.grace_s,
        ),
        ready_timeout_s=submitted.ready_timeout_s if submitted else 0,
        work_dir=_absolute(work_dir),
        inputs=tuple(inputs.values()),
    )


def idle_gpus(config: TrainConfig) -> str | None:
    """That some of the GPUs that are asked for have nothing to do; None if all have."""
    asked = config.nodes * config.cluster.num_gpus
    used = config.learner.num_ranks + config.rollout.num_workers * config.rollout.tensor_parallel_size
    if asked <= used:
        return None
    return (
        f"{asked - used} of {asked} GPUs have nothing to do: raise learner.num_ranks={config.learner.num_ranks} or "
        f"rollout.num_workers={config.rollout.num_workers}, or ask for fewer (nodes, cluster.num_gpus)"
    )


def job_name(run_dir: Path) -> str:
    """A name that says which run it is and that no other run folder has: `delta-dapo-seed1-3fa9c2`."""
    digest = hashlib.sha256(str(run_dir).encode()).hexdigest()[:6]
    said = re.sub(r"[^a-z0-9]+", "-", "-".join(run_dir.parts[-2:]).lower()).strip("-")
    room = NAME_LENGTH - len("delta--") - len(digest)
    return f"delta-{said[-room:].strip('-')}-{digest}"


def _told(
    config: TrainConfig, overrides: Sequence[str], *, run_dir: Path, inputs: Mapping[str, Path], is_sweep: bool
) -> Iterator[str]:
    """Overrides of the run: those of the submission, but for what only concerns the submission, and absolute paths."""
    settled = {"dry_run", "run_dir", "resume", *inputs}
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        if key == "faults.grace_s" and isinstance(config.cluster, SubmittedConfig):
            raise ConfigError(f"{override}: expected cluster.grace_s, which a submitted run is told as faults.grace_s.")
        if key not in settled and not key.startswith(("hydra.", "hydra/")):
            yield override
    for key, path in inputs.items():
        yield f"{key}={quoted(path)}"
    yield f"run_dir={quoted(run_dir)}"
    if isinstance(config.cluster, SubmittedConfig):
        yield f"faults.grace_s={config.cluster.grace_s:g}"
    # Refusing a folder with a run in it is done when the run is submitted; put back into the queue it is to go on.
    yield f"resume={(Resume.auto if config.resume is Resume.never else config.resume).value}"
    if is_sweep:
        yield "hydra.mode=RUN"


def unseen(config: TrainConfig) -> list[str]:
    """Settings with absolute paths that are not on this machine, but may be on a cluster's storage."""
    nowhere = Path("/nowhere")  # what relative paths, and names on a hub, are taken to be below
    paths = _paths(config, nowhere)
    return [f"{key}={path}" for key, path in paths if not path.exists() and not path.is_relative_to(nowhere)]


def _paths(config: Any, work_dir: Path, prefix: str = "") -> Iterator[tuple[str, Path]]:
    """Settings that name something to read, and its absolute path; a hub's name becomes a path of nothing."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _paths(value, work_dir, f"{prefix}{field.name}.")
        elif field.name in READ and value:
            yield f"{prefix}{field.name}", _absolute(work_dir / Path(value).expanduser())


def _absolute(path: Path) -> Path:
    """As it was said: what links lead to here may have another name on other machines."""
    return Path(os.path.abspath(path))


def _environment(cluster: SubmittedConfig, *, run_dir: Path) -> Mapping[str, str]:
    """Of all processes on all nodes; what the user says comes last."""
    # Ray counts a node as lost after `failure_threshold` periods without an answer, each as long as its timeout.
    third_ms = int(cluster.lost_after_s * 1000 / 3)
    return {
        "DELTA_CACHE": str(run_dir.parent / ".delta-cache"),
        "PYTHONUNBUFFERED": "1",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
        "RAY_health_check_failure_threshold": "3",
        "RAY_health_check_initial_delay_ms": "5000",
        "RAY_health_check_period_ms": str(third_ms // 3),
        "RAY_health_check_timeout_ms": str(third_ms * 2 // 3),
        "TOKENIZERS_PARALLELISM": "false",
        **cluster.environment,
    }
