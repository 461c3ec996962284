"""Slurm's commands, and what they say as records."""

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from delta.errors import SubmissionError
from launch.submit.slurm.config import seconds_of

TIMEOUT_S = 120.0
"""A controller that is busy may take a minute to answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInfo:
    """A node as Slurm describes it."""

    name: str
    cpus: int
    memory_mib: int
    gpus: Mapping[str, int]
    """By type; a node that does not say which has them under the empty name."""
    features: frozenset[str]
    partitions: frozenset[str]
    is_up: bool

    def gpus_of(self, gpu_type: str) -> int:
        """How many there are of a type, or of any."""
        return self.gpus.get(gpu_type, 0) if gpu_type else sum(self.gpus.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A partition as Slurm describes it."""

    name: str
    is_default: bool
    is_up: bool
    max_time_s: int | None
    """None is unlimited."""
    default_time_s: int | None
    """What a job gets that does not say; None is `max_time_s`."""
    max_nodes: int | None
    preempts: bool
    """Whether its jobs may be ended for the sake of others."""
    grace_s: int
    """Between the word of that and the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveJob:
    """A job that waits or runs."""

    job_id: str
    state: str


def run(*command: str, stdin: str = "") -> str:
    """Output of one of Slurm's commands.

    Raises:
        SubmissionError: It is not there, or refuses; its words are in the message.
    """
    # A submission from inside a job would otherwise take over that job's shape.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_") or k == "SLURM_CONF"}
    try:
        done = subprocess.run(command, input=stdin, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    except FileNotFoundError as error:
        raise SubmissionError(
            f"{command[0]} is not found: expected Slurm's commands on this machine. Submit from a login node of the "
            "cluster, or look at the plan with dry_run=true."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise SubmissionError(
            f"{command[0]} did not answer within {TIMEOUT_S:g} s: is the cluster's controller up? Try: scontrol ping"
        ) from error
    if done.returncode:
        said = re.sub(rf"^{command[0]}: (error: |fatal: )?", "", done.stderr.strip(), flags=re.MULTILINE)
        raise SubmissionError(f"{command[0]} refuses: {'; '.join(said.splitlines()) or done.stdout.strip()}")
    return done.stdout


def nodes() -> Sequence[NodeInfo]:
    """All nodes of the cluster."""
    return [
        NodeInfo(
            name=line["NodeName"],
            cpus=int(line.get("CPUEfctv") or line["CPUTot"]),
            memory_mib=int(line["RealMemory"]),
            gpus=_gpus(line.get("Gres", "")),
            features=frozenset(_listed(line.get("AvailableFeatures", ""))),
            partitions=frozenset(_listed(line.get("Partitions", ""))),
            is_up=re.search(r"DOWN|DRAIN|FAIL|NOT_RESPONDING|MAINT|POWER|\*", line["State"]) is None,
        )
        for line in map(_fields, run("scontrol", "--oneliner", "show", "node").splitlines())
        if "CPUTot" in line
    ]


def partitions() -> Sequence[Partition]:
    """All partitions of the cluster."""
    return [
        Partition(
            name=line["PartitionName"],
            is_default=line["Default"] == "YES",
            is_up=line["State"] == "UP",
            max_time_s=seconds_of(line["MaxTime"]),
            default_time_s=seconds_of(line["DefaultTime"]),
            max_nodes=int(line["MaxNodes"]) if line["MaxNodes"].isdigit() else None,
            preempts=line["PreemptMode"] not in ("OFF", "SUSPEND", "GANG"),
            grace_s=int(line["GraceTime"]),
        )
        for line in map(_fields, run("scontrol", "--oneliner", "show", "partition").splitlines())
        if "Default" in line
    ]


def active_jobs(name: str) -> Sequence[ActiveJob]:
    """The user's jobs of a name that wait or run."""
    lines = run("squeue", "--me", "--noheader", f"--name={name}", "--format=%i %T").splitlines()
    return [ActiveJob(job_id=job_id, state=state) for job_id, state in map(str.split, lines)]


def _fields(line: str) -> dict[str, str]:
    """`Name=value Name=value`; values may hold spaces and further equal signs."""
    return {match[1]: match[2] for match in re.finditer(r"(\w+)=(.*?)(?=\s+\w+=|\s*$)", line)}


def _listed(text: str) -> list[str]:
    return [] if text == "(null)" else [item for item in text.split(",") if item]


def _gpus(gres: str) -> dict[str, int]:
    """Of `gpu:h100:4(S:0-1),gpu:a100:2,nvme:1`: 4 of `h100` and 2 of `a100`."""
    found: dict[str, int] = {}
    for name, kind, count in re.findall(r"(?:^|,)(\w+):(?:([^:,(]+):)?(\d+)", gres):
        if name == "gpu":
            found[kind.lower()] = found.get(kind.lower(), 0) + int(count)
    return found
