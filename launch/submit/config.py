"""What the kinds of clusters that runs are submitted to have in common."""

from dataclasses import dataclass, field

from workers.cluster import ClusterConfig


@dataclass(kw_only=True, slots=True)
class SubmittedConfig(ClusterConfig):
    """A cluster that somebody else schedules; CPUs, GPUs and memory are asked for on every node."""

    environment: dict[str, str] = field(default_factory=dict)
    """Further environment variables of all processes. No secrets: they would be in the rendered plan."""
    image: str = ""
    """Container image that everything runs in."""
    ready_timeout_s: float = 600.0
    """How long nodes may take to join the Ray cluster; whoever is missing then is named."""
    grace_s: float = 120.0
    """How long a run may take to end in a checkpoint when it is preempted, or its time is up; the run is told as
    `faults.grace_s`."""
    max_requeues: int = 20
    """Times that a preempted run is put back into the queue."""
