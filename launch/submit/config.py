"""What the kinds of clusters that runs are submitted to have in common."""

import re
from dataclasses import dataclass, field
from typing import ClassVar

from workers.cluster import ClusterConfig

SECRET = re.compile(r"(_KEY|_TOKEN)$|SECRET|PASSWORD", re.IGNORECASE)
"""Names of environment variables whose values must not be written down."""


@dataclass(kw_only=True, slots=True)
class SubmittedConfig(ClusterConfig):
    """A cluster that somebody else schedules; CPUs, GPUs and memory are asked for on every node."""

    kind_of_cluster: ClassVar[str] = ""
    """What it is called as `cluster=` and as `hydra/launcher=`."""
    environment: dict[str, str] = field(default_factory=dict)
    """Further environment variables of all processes. No secrets: they would be in the rendered plan."""
    image: str = ""
    """Container image that everything runs in."""
    ready_timeout_s: float = 600.0
    """How long nodes may take to join the Ray cluster; whoever is missing then is named."""
    lost_after_s: float = 45.0
    """How long Ray hears nothing from a node before it counts as lost; too short a time kills busy nodes."""
    grace_s: float = 120.0
    """How long a run may take to end in a checkpoint when it is preempted, or its time is up; the run is told as
    `faults.grace_s`."""
    requeue: bool = True
    """Whether the run is started again when it was preempted or its time was up."""
    max_requeues: int = 20
    """Times that it is started again; what Slurm puts back by itself (preemption, a lost node) counts as well."""

    def __post_init__(self) -> None:
        """Check the ranges, and that nothing secret would be written down."""
        ClusterConfig.__post_init__(self)
        for name in ("ready_timeout_s", "lost_after_s", "grace_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"cluster.{name}={getattr(self, name):g}: expected more than 0 s.")
        if self.max_requeues < 0:
            raise ValueError(f"cluster.max_requeues={self.max_requeues}: expected 0 or more.")
        if secrets := [name for name in self.environment if SECRET.search(name)]:
            raise ValueError(
                f"cluster.environment holds {', '.join(secrets)}, which would be written into the files of the job in "
                "plain text. Pass secrets by reference: docs/launch.md and docs/kubernetes.md say how."
            )
