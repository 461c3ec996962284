"""A real Slurm on this machine: slurmctld here, and a slurmd on each of two emulated hosts, n1 and n2.

Several may run at once: each has a network, ports and files of its own. Nothing stays behind, whatever happens in
between; even when this process is killed its daemons go, and only an idle network bridge stays.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.slurm.hosts import NOTHING, Host, Leftovers, die_with_parent, ip

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "ip", "unshare")
NODES = ("n1", "n2")
CPUS = 8
"""Of a node as Slurm sees it, whatever this machine has."""
MEMORY_MIB = 32_000
GPUS = 4
SLURMD_PORT = 6818
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")
TIMEOUT_S = 300
"""Of every wait: many times what it takes alone on a machine, which others may use too."""

# Preemption requeues the job of partition `low`. Without accounting there is no sacct; jobcomp has how jobs ended.
SLURM_CONF = """
ClusterName=delta{number}
SlurmctldHost={hostname}({network}.254)
SlurmctldPort={port}
SlurmdPort={slurmd_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs.txt
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=1000
SchedulerParameters=sched_interval=5,bf_interval=5,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmdTimeout=20
KillWait=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=n1 NodeAddr={network}.1 CPUs={cpus} RealMemory={memory_mib} Gres=gpu:{gpus}
NodeName=n2 NodeAddr={network}.2 CPUs={cpus} RealMemory={memory_mib} Gres=gpu:{gpus}
PartitionName=low Nodes=n1,n2 Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=120
PartitionName=high Nodes=n1,n2 PriorityTier=10 PreemptMode=OFF
"""


def missing() -> str:
    """Why there can be no cluster here; empty where there can."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    if absent := [program for program in PROGRAMS if shutil.which(program, path=path) is None]:
        return f"{', '.join(absent)} not installed; on Debian: apt install slurmctld slurmd slurm-client munge iproute2"
    if os.geteuid() != 0:
        return "emulated hosts need root"
    tried = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True)
    if tried.returncode:
        return f"no namespaces for emulated hosts: {tried.stderr.strip()}"
    tried = subprocess.run(
        ["unshare", "--net", "ip", "link", "add", "b0", "type", "bridge"], capture_output=True, text=True
    )
    return f"no network bridge for emulated hosts: {tried.stderr.strip()}" if tried.returncode else ""


def wait_until(condition: Callable[[], bool], saying: Callable[[], str]) -> None:
    """Wait for a condition; past the deadline fail with what `saying` says then."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"after {TIMEOUT_S} s: {saying()}"
        time.sleep(0.1)


class SlurmCluster:
    """Two nodes and their controller; made by `slurm_cluster`."""

    def __init__(self, *, folder: Path, number: int, shared: Sequence[Path]) -> None:
        """Write the configuration of cluster `number`, which names its network and its bridge."""
        self.folder = folder
        self._network, self._bridge = f"10.77.{number}", f"slurm{number}"
        self._daemons: list[subprocess.Popen[bytes]] = []
        self.hosts = {
            name: Host(
                name, address=f"{self._network}.{i}", bridge=self._bridge, folder=folder, shared=[folder, *shared]
            )
            for i, name in enumerate(NODES, start=1)
        }
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        (folder / "slurm.conf").write_text(
            SLURM_CONF.format(
                number=number,
                hostname=socket.gethostname().split(".")[0],
                network=self._network,
                port=port,
                slurmd_port=SLURMD_PORT,
                folder=folder,
                cpus=CPUS,
                memory_mib=MEMORY_MIB,
                gpus=GPUS,
            )
        )
        # Slurm refuses plain files as devices; these are /dev/null by other names.
        for index in range(GPUS):
            os.mknod(folder / f"gpu{index}", 0o666 | 0o020000, os.makedev(1, 3))
        (folder / "gres.conf").write_text(f"NodeName=n1,n2 Name=gpu File={folder}/gpu[0-{GPUS - 1}]\n")
        (folder / "hosts").write_text(
            "127.0.0.1 localhost\n" + "".join(f"{host.address} {host.name}\n" for host in self.hosts.values())
        )
        for name in ("state", *(f"spool-{name}" for name in NODES)):
            (folder / name).mkdir()
        (folder / "munge.key").write_bytes(os.urandom(128))
        (folder / "munge.key").chmod(0o400)
        self.environment = {
            # But for what torch sets for itself once other tests have imported it: jobs would put files there.
            **{name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"},
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
        }
        """Of client commands: everything that is run with it talks to this cluster."""

    def start(self) -> None:
        """Bring up everything, until both nodes are idle."""
        ip("link", "add", self._bridge, "type", "bridge")
        ip("address", "add", f"{self._network}.254/24", "dev", self._bridge)
        ip("link", "set", self._bridge, "up")
        names = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed", "key-file": "key"}
        # Forced, because the ways to a temporary folder may be closed to others.
        self._daemon("munged", "--foreground", "--force", *(f"--{k}={self.folder}/munge.{v}" for k, v in names.items()))
        self._daemon("slurmctld", "-D", "-c", "-f", f"{self.folder}/slurm.conf")
        for name in NODES:
            self.start_host(name)
        for name in NODES:
            self.wait_for_node(name, "IDLE")

    def stop(self) -> None:
        """Take down everything that `start` brought up, however far it came."""
        for host in self.hosts.values():
            host.kill()
        for daemon in reversed(self._daemons):
            daemon.kill()
            daemon.wait()
        subprocess.run(["ip", "link", "delete", self._bridge], capture_output=True)

    def start_host(self, name: str) -> None:
        """Boot a node, at first or after `kill_host`."""
        daemon = ("slurmd", "-D", "-f", f"{self.folder}/slurm.conf", "-N", name)
        self.hosts[name].start(daemon, environment=self.environment)

    def kill_host(self, name: str) -> None:
        """Pull the plug of a node."""
        self.hosts[name].kill()

    def cut(self, name: str) -> None:
        """Pull the network cable of a node; everything on it runs on."""
        self.hosts[name].cut()

    def restore(self, name: str) -> None:
        """Plug the cable in again."""
        self.hosts[name].restore()

    def run(self, *command: str, check: bool = True, timeout_s: float = TIMEOUT_S) -> subprocess.CompletedProcess[str]:
        """Run a command as on the login node."""
        finished = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=timeout_s)
        assert not check or finished.returncode == 0, f"{command}: {finished.stdout[-3000:]}{finished.stderr[-3000:]}"
        return finished

    def submit(self, script: str, *options: str) -> str:
        """Send a batch script; returns the id of the job."""
        file = self.folder / f"batch-{time.monotonic_ns()}.sh"
        file.write_text(f"#!/bin/bash\n{script}\n")
        output = f"--output={self.folder}/job-%j.out"
        return self.run("sbatch", "--parsable", output, *options, str(file)).stdout.strip()

    def job(self, job_id: str) -> dict[str, str]:
        """What Slurm says about a job, by its own names: JobState, Reason, Restarts, ExitCode, StdOut, ..."""
        shown = self.run("scontrol", "--oneliner", "show", "job", job_id).stdout
        return dict(re.findall(r"(\S+?)=(\S*)", shown))

    def log(self, job_id: str) -> str:
        """The output of a job so far."""
        file = Path(self.job(job_id)["StdOut"])
        return file.read_text() if file.exists() else ""

    def wait_for(self, job_id: str, *states: str) -> dict[str, str]:
        """Wait until a job is in one of the states; a job that ends otherwise fails the test, with its log."""

        def arrived() -> bool:
            state = self.job(job_id)["JobState"]
            assert state in states or state not in OVER, f"it ended: {told()}"
            return state in states

        def told() -> str:
            job = self.job(job_id)
            return (
                f"job {job_id} is {job['JobState']} ({job['Reason']}, exit code {job['ExitCode']}) and not "
                f"{' or '.join(states)}; its log:\n{self.log(job_id)[-8000:]}"
            )

        wait_until(arrived, told)
        return self.job(job_id)

    def start_now(self, job_id: str, *changes: str) -> None:
        """Lift the two minutes for which Slurm holds a requeued job, and change what else is to be changed.

        Not to the same second: nodes refuse what was issued in the second in which the job was taken from them, and the
        job would fail.
        """
        self.wait_for(job_id, "PENDING")
        self.run("scontrol", "update", f"jobid={job_id}", "StartTime=now+2", *changes)

    def node_states(self) -> dict[str, str]:
        """State of each node: IDLE, MIXED, ALLOCATED, DOWN, with +NOT_RESPONDING while it does not answer."""
        shown = self.run("scontrol", "--oneliner", "show", "nodes").stdout
        return dict(re.findall(r"NodeName=(\S+).*? State=(\S+)", shown))

    def wait_for_node(self, name: str, state: str) -> None:
        """Wait until a node is in a state."""
        wait_until(
            lambda: self._states_or_none().get(name) == state,
            lambda: f"{name} is not {state} but {self._states_or_none().get(name)}:\n{self.logs()}",
        )

    def leftovers(self, name: str) -> Leftovers:
        """What is on a node beside slurmd."""
        return self.hosts[name].leftovers(daemon="slurmd", port=SLURMD_PORT)

    def wait_until_clean(self) -> None:
        """Wait until no process, port, shared memory or temporary file is left on any node that is up."""
        up = [name for name, host in self.hosts.items() if host.is_up]
        wait_until(
            lambda: all(self.leftovers(name) == NOTHING for name in up),
            lambda: f"left: {[(name, self.leftovers(name)) for name in up]}",
        )

    def logs(self) -> str:
        """The end of each daemon's log."""
        files = [*self.folder.glob("*.log"), *self.folder.glob("*/host.log")]
        return "\n".join(f"{file.name}: {file.read_text()[-2000:]}" for file in sorted(files))

    def _daemon(self, *command: str) -> None:
        with (self.folder / f"{command[0]}-output.log").open("w") as log:
            self._daemons.append(
                subprocess.Popen(
                    command,
                    env=self.environment,
                    stdout=log,
                    stderr=log,
                    preexec_fn=die_with_parent,
                    start_new_session=True,
                )
            )

    def _states_or_none(self) -> dict[str, str]:
        """Of no node, while the controller does not answer yet."""
        return self.node_states() if self.run("scontrol", "ping", check=False).returncode == 0 else {}


def _free_number() -> int:
    """Number of a cluster whose bridge nobody has; others may look at the same time, hence from our id on."""
    used = {link["ifname"] for link in json.loads(ip("-json", "link"))}
    return next(n % 256 for n in range(os.getpid(), os.getpid() + 256) if f"slurm{n % 256}" not in used)


@contextlib.contextmanager
def slurm_cluster(*, shared: Sequence[Path] = ()) -> Iterator[SlurmCluster]:
    """A cluster while the block runs.

    Args:
        shared: Folders that all nodes share with us; below /tmp others are private to each node.
    """
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short, for the sake of sockets
    folder.chmod(0o755)
    cluster = SlurmCluster(folder=folder, number=_free_number(), shared=[p for p in shared if p.is_relative_to("/tmp")])
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder)
