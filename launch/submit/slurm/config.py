"""What is said about a run to Slurm."""

from dataclasses import dataclass

from launch.submit.config import SubmittedConfig


@dataclass(kw_only=True, slots=True)
class SlurmConfig(SubmittedConfig):
    """A Slurm cluster (`cluster=slurm`)."""

    partition: str = ""
    """Partition; empty is the cluster's default."""
