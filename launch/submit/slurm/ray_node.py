"""The Ray of one node: started with everything said explicitly, watched, and ended with all of its processes."""

import contextlib
import ctypes
import functools
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from delta.errors import SubmissionError
from launch.submit.slurm.ports import Block

MIB = 2**20
PR_SET_CHILD_SUBREAPER = 36
END_S = 10.0
"""How long processes may take to vanish once they were killed."""
ASK_S = 5.0
"""How long the head may take to say who is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeResources:
    """What Ray may plan with on a node; by itself it would count what the machine has, not what the job was given."""

    cpus: int
    gpus: int
    memory_mib: int
    """0 takes what Slurm says, or what there is."""
    object_store_mib: int

    def options(self) -> list[str]:
        """Options of `ray start`."""
        cpus = int(os.environ.get("SLURM_CPUS_ON_NODE", self.cpus))
        given = int(os.environ.get("SLURM_MEM_PER_NODE", 0)) or cpus * int(os.environ.get("SLURM_MEM_PER_CPU", 0))
        memory = self.memory_mib or given or psutil.virtual_memory().total // MIB
        return [
            f"--num-cpus={self.cpus}",
            f"--num-gpus={self.gpus}",
            f"--memory={max(memory - self.object_store_mib, 1) * MIB}",
            f"--object-store-memory={self.object_store_mib * MIB}",
        ]

    def check(self) -> None:
        """Compare with what the job was given here.

        Raises:
            SubmissionError: It is less.
        """
        cpus = len(os.sched_getaffinity(0))
        given = int(os.environ.get("SLURM_CPUS_ON_NODE", cpus))
        visible = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
        if self.cpus > given or self.gpus > len(visible):
            raise SubmissionError(
                f"Slurm gave {given} CPUs and {len(visible)} GPUs (CUDA_VISIBLE_DEVICES={','.join(visible)}); expected "
                f"{self.cpus} and {self.gpus}. See cluster.num_cpus, cluster.num_gpus and cluster.options."
            )


def adopt_orphans() -> None:
    """From now on whoever loses its parent becomes our child, so that `end_children` finds every process of the job."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def end_children() -> None:
    """Kill all that this process has started, and what those have, until nobody is left."""
    while children := psutil.Process().children(recursive=True):
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        _, alive = psutil.wait_procs(children, timeout=END_S)
        if alive:  # in the kernel, waiting for a disk: Slurm will say so as well
            sys.stderr.write(f"these processes cannot be killed: {alive}\n")
            return


class RayNode:
    """`ray start --block` as a child of this process."""

    def __init__(
        self, *, name: str, ip: str, head_address: str, block: Block, resources: NodeResources, log: Path
    ) -> None:
        """Start it.

        Args:
            name: Of this node.
            ip: Address at which the other nodes reach this one.
            head_address: The head's; empty makes this the head.
            block: Ports and folder.
            resources: What Ray may plan with.
            log: File that its output is appended to.
        """
        head = not head_address
        self.address = head_address or f"{ip}:{block.gcs_port}"
        self._folder, self._log = block.folder, log
        where = ["--head", "--include-dashboard=false"] if head else [f"--address={head_address}"]
        with log.open("ab") as output:
            # Signals are blocked in this process and so, by inheritance, in all of Ray: Slurm sends them to everybody
            # at once, and a run cannot write a checkpoint once its actors are gone.
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "ray.scripts.scripts", "start", *where, "--block"),
                    *(f"--node-ip-address={ip}", f"--node-name={name}", f"--temp-dir={block.folder}"),
                    *("--disable-usage-stats", "--include-log-monitor=false", "--no-monitor", "--log-color=false"),
                    *block.options(head=head),
                    *resources.options(),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    @property
    def code(self) -> int | None:
        """Exit code; None while it runs."""
        return self._process.poll()

    def keep_logs(self, folder: Path) -> None:
        """Copy Ray's logs to where they outlive the job."""
        with contextlib.suppress(OSError, shutil.Error):  # sockets among them, files that vanish, a full disk
            shutil.copytree(self._folder / "session_latest" / "logs", folder, dirs_exist_ok=True)

    def last_words(self) -> str:
        """The end of its output, as a line."""
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return " ".join(lines[-3:])


def alive_nodes(address: str) -> Sequence[str]:
    """Names of the nodes that the Ray at `address` takes for alive; none while nobody listens there.

    Asks the head's own service, which needs no node here and starts no process, unlike `ray.init` and `ray status`.
    """
    from ray.exceptions import RayError

    ip, port = address.rsplit(":", 1)
    try:
        socket.create_connection((ip, int(port)), timeout=ASK_S).close()  # Ray itself would try for 40 s
        nodes = _service(address).get_all_node_info(timeout=ASK_S).values()
    except (OSError, RayError):
        return ()
    return [node.node_name for node in nodes if node.state == node.ALIVE]


@functools.cache
def _service(address: str) -> Any:
    from ray import _raylet

    return _raylet.GcsClient(address=address)  # type: ignore[attr-defined]  # compiled
