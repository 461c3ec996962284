"""What is said about a run to Slurm."""

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar

from launch.submit.config import SubmittedConfig

TIME_LIMIT = re.compile(r"(?:(?P<days>\d+)-)?(?P<parts>\d+(?::\d+){0,2})")


OPTIONS = ("partition", "account", "qos", "constraint", "reservation", "exclude")
"""Settings that are options of sbatch under the same name."""


class ContainerRuntime(Enum):
    """Who runs images: NVIDIA's pyxis, a plug-in of srun, or the command apptainer."""

    pyxis = "pyxis"
    apptainer = "apptainer"


def seconds_of(time_limit: str) -> int | None:
    """A time as Slurm writes it (minutes, M:S, H:M:S, D-H, D-H:M, D-H:M:S); None if it is not one or is unlimited."""
    match = TIME_LIMIT.fullmatch(time_limit)
    if not match:
        return None
    parts = [int(part) for part in match["parts"].split(":")]
    if match["days"]:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
        return ((int(match["days"]) * 24 + hours) * 60 + minutes) * 60 + seconds
    hours, minutes, seconds = {1: (0, *parts, 0), 2: (0, *parts), 3: tuple(parts)}[len(parts)]
    return (hours * 60 + minutes) * 60 + seconds


@dataclass(kw_only=True, slots=True)
class SlurmConfig(SubmittedConfig):
    """A Slurm cluster (`cluster=slurm`). What is empty is left to the cluster."""

    kind_of_cluster: ClassVar[str] = "slurm"
    partition: str = ""
    """Partition."""
    account: str = ""
    """Account that pays."""
    qos: str = ""
    """Quality of service."""
    constraint: str = ""
    """Features that nodes must have."""
    reservation: str = ""
    """Reservation to run in."""
    time_limit: str = ""
    """Of one start of the job, as Slurm writes it: `4:00:00`, `2-12`; the run is told ahead of it and requeued."""
    exclude: str = ""
    """Nodes to stay away from."""
    gpu_type: str = ""
    """Kind of GPU, where a cluster has several: `h100`."""
    options: list[str] = field(default_factory=list)
    """Further options of sbatch, as on its command line: `["--mail-type=END"]`."""
    setup: list[str] = field(default_factory=list)
    """Lines of bash before anything else on the first node: modules, the activation of an environment."""
    secrets_file: str = ""
    """Bash file with what must not be written down (`WANDB_API_KEY=...`), read when the job starts."""
    python: str = ""
    """Interpreter on the nodes; by default that of delta-submit, in an image `python`."""
    container: ContainerRuntime = ContainerRuntime.pyxis
    """Who runs `image`."""
    mounts: list[str] = field(default_factory=list)
    """Folders for the container, `SOURCE:TARGET`, beside those of the run, its model and its data."""
    network: str = ""
    """Network interface that nodes talk over, such as `ib0`; by default the one with the address that Slurm uses."""
    temp_dir: str = "/tmp"
    """Folder on the disk of each node; what the job makes there it removes."""
    first_port: int = 20000
    """Ports of Ray: from here ..."""
    last_port: int = 32000
    """... to here, below those that the kernel hands out; each node of each job takes a block of its own."""
    no_kill: bool = True
    """Whether the job goes on when a node is lost; otherwise Slurm ends it."""
    allow_local: bool = False
    """Accept a run folder on storage that usually belongs to one node only, such as /tmp."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        SubmittedConfig.__post_init__(self)
        if self.time_limit and seconds_of(self.time_limit) is None:
            raise ValueError(
                f"cluster.time_limit={self.time_limit}: expected a time as Slurm writes it, such as 90 (minutes), "
                "4:00:00 or 2-12:00:00."
            )
        if self.time_limit and (seconds_of(self.time_limit) or 0) <= self.lead_s:
            raise ValueError(
                f"cluster.time_limit={self.time_limit} is over before the run is told to end, {self.lead_s} s ahead "
                f"(cluster.grace_s={self.grace_s:g} and a minute): expected much more. Raise the one or lower the "
                "other."
            )
        if not 1024 <= self.first_port < self.last_port < 65536:
            raise ValueError(
                f"cluster.first_port={self.first_port}, cluster.last_port={self.last_port}: expected a range of ports "
                "between 1024 and 65535."
            )
        if not self.temp_dir.startswith("/") or len(self.temp_dir) > 30:
            raise ValueError(
                f"cluster.temp_dir={self.temp_dir}: expected an absolute path of at most 30 characters, since sockets "
                "with long paths are not possible."
            )

    @property
    def lead_s(self) -> int:
        """How long ahead of the time limit the run is told; Slurm may be a minute late."""
        return int(self.grace_s) + 60
