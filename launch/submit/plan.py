"""The plan of a submission: everything that will happen, as one record that every backend renders.

`plan_for` makes it from the composed configuration. A backend (`launch.submit.backend`) turns it into files, checks it
against its cluster, and sends it; nothing that a backend does is decided anywhere else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


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
    """Name of the job: lower-case letters, digits and hyphens, at most 50; made from the run folder."""
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
