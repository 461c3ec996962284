"""What a cluster is, as the configuration says it."""

from dataclasses import dataclass


@dataclass(kw_only=True, slots=True)
class ClusterConfig:
    """Where the processes run, and what each node has. `cluster=local`: all of them here, under a Ray of their own."""

    num_cpus: int = 2
    """CPUs of a node that Ray may plan with."""
    num_gpus: int = 0
    """GPUs of a node; with any, every learner rank and every engine has GPUs of its own, else all run on CPUs."""
    object_store_mib: int = 256
    """Shared memory of a node for objects in flight between the processes."""
    gpu_memory_gib: float = 0.0
    """Memory of a GPU, to plan for another machine with `dry_run`; 0 plans for CPUs, which is where runs are."""
    host_memory_gib: float = 0.0
    """Memory of a node, for the memory plan and for what a scheduler is asked for; 0 takes what is free here."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.num_cpus < 1 or self.object_store_mib < 80:
            raise ValueError(
                f"cluster.num_cpus={self.num_cpus}, cluster.object_store_mib={self.object_store_mib}: expected at "
                "least 1 CPU and 80 MiB (Ray's minimum)."
            )
        if self.num_gpus < 0:
            raise ValueError(f"cluster.num_gpus={self.num_gpus}: expected 0 or more.")
        if self.gpu_memory_gib < 0 or self.host_memory_gib < 0:
            raise ValueError(
                f"cluster.gpu_memory_gib={self.gpu_memory_gib}, cluster.host_memory_gib={self.host_memory_gib}: "
                "expected 0 or more GiB."
            )
