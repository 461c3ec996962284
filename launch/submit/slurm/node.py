"""What runs on every node of a job: `python -m launch.submit.slurm.node ... head -- delta-train ...`, or `... worker`.

The head starts Ray, waits until every other node has joined it, runs the driver, and says when it is over. A worker
keeps a Ray joined to the head's until then. Both end everything that they started, and leave nothing on the node.

Slurm sends SIGTERM to all processes of a job at once. Here nobody listens but this program: it has the signals blocked,
and so has, by inheritance, all of Ray. The head tells the driver, once, with SIGUSR1, which writes a checkpoint with a
Ray that is still there.
"""

import argparse
import contextlib
import ipaddress
import os
import shlex
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from delta.errors import SubmissionError
from launch.command import EXIT_FAULT, EXIT_PREEMPTED, EXIT_USER_ERROR
from launch.submit.slurm.driver import Driver
from launch.submit.slurm.marks import ENDED, HEAD, LAST, STOP, Marks, failed, started
from launch.submit.slurm.ports import own_block
from launch.submit.slurm.ray_node import NodeResources, RayNode, adopt_orphans, alive_nodes, end_children

SIGNALS = frozenset({signal.SIGTERM, signal.SIGUSR1, signal.SIGINT})
POLL_S = 0.5
"""How often files, processes and signals are looked at."""
START_TRIES = 3
"""Times that the head's Ray is started; a port may be taken between our look at it and Ray's."""
RETRY_S = 5.0
"""Between a worker's attempts to join."""
MARGIN_S = 30.0
"""How long after the grace a worker still waits for the head's word."""
CLEAN_UP_S = 2.5
"""How long before Slurm kills what is left a node ends everything itself, and removes its files."""


class Preempted(Exception):
    """The job is to end, and there is nothing to save."""


class Node:
    """One node of a job."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Find out which one this is, and how the others reach it."""
        self.arguments = arguments
        self.nodes: dict[str, str] = dict(pair.split("=", 1) for pair in arguments.nodes.split())
        """Names, and the addresses that Slurm has for them."""
        self.name = os.environ["SLURMD_NODENAME"]
        self.marks = Marks(arguments.marks)
        self.resources = NodeResources(
            cpus=arguments.cpus,
            gpus=arguments.gpus,
            memory_mib=arguments.memory_mib,
            object_store_mib=arguments.object_store_mib,
        )
        self.told: dict[int, float] = {}
        """Signals that came so far, and when first."""
        self._end_at = float("inf")

    @property
    def logs(self) -> Path:
        """Where this node's logs are kept when the run fails."""
        return self.marks.folder / f"ray-{self.name}"

    def say(self, text: str) -> None:
        """Tell the log of the job."""
        sys.stdout.write(f"[{time.strftime('%H:%M:%S')} {self.name}] {text}\n")
        sys.stdout.flush()

    def pause(self, seconds: float = POLL_S) -> None:
        """Let time pass, and note the signals that come meanwhile."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and (came := signal.sigtimedwait(SIGNALS, left)):
            self.told.setdefault(came.si_signo, time.monotonic())
        if self._end_at == float("inf") and self.marks.has(LAST):
            self._end_at = time.monotonic() + self.arguments.kill_wait_s - CLEAN_UP_S

    @property
    def is_to_end(self) -> bool:
        """Whether Slurm, or the batch script on its behalf, has said that the time is up."""
        return bool(self.told) or self.marks.has(STOP)

    @property
    def is_late(self) -> bool:
        """Whether Slurm is about to kill everything here, which would leave files behind."""
        return time.monotonic() > self._end_at

    @contextlib.contextmanager
    def ray(self, *, head_address: str = "") -> Iterator[RayNode]:
        """A Ray of this node while the block lasts; nobody of it is left afterwards."""
        job = int(os.environ["SLURM_JOB_ID"])
        with own_block(
            temp_dir=self.arguments.temp_dir,
            first_port=self.arguments.first_port,
            last_port=self.arguments.last_port,
            cpus=self.resources.cpus,
            preferred=job * len(self.nodes) + list(self.nodes).index(self.name),
        ) as block:
            os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="tmp-", dir=block.folder)  # of all that is started here
            ray = RayNode(
                name=self.name,
                ip=own_address(self.name, self.nodes, network=self.arguments.network),
                head_address=head_address,
                block=block,
                resources=self.resources,
                log=self.marks.folder / f"ray-{self.name}.log",
            )
            try:
                yield ray
            finally:
                with contextlib.suppress(OSError):  # of a storage that is away; the processes must end all the same
                    if self.marks.read(ENDED) not in ("0", str(EXIT_PREEMPTED)):
                        ray.keep_logs(self.logs)
                end_children()

    def head(self) -> int:
        """Ray's head and the driver; the exit code of the job."""
        deadline = time.monotonic() + self.arguments.ready_timeout_s
        for last in (False,) * (START_TRIES - 1) + (True,):
            with self.ray() as ray:
                self.await_nodes(ray, [self.name], deadline=deadline, fatal=last)
                if ray.code is not None:
                    continue
                self.marks.make(HEAD, ray.address)
                self.await_nodes(ray, list(self.nodes), deadline=deadline)
                self.say(f"Ray at {ray.address}: all {len(self.nodes)} nodes are there, starting the run")
                code = self.drive(ray)
                self.marks.make(ENDED, str(code))  # before Ray ends here, so that the others do not miss it
                return code
        raise AssertionError("the last attempt is fatal")

    def drive(self, ray: RayNode) -> int:
        """The driver, until it ends; its exit code."""
        driver = Driver(self.arguments.driver, environment={"RAY_ADDRESS": ray.address}, grace_s=self.arguments.grace_s)
        lost = False
        while (code := driver.code) is None:
            self.pause()
            if ray.code is not None and not lost:
                self.say(f"Ray's head ended with code {ray.code}, and the run with it: {ray.last_words()}")
                lost = True
            if lost or self.is_to_end:
                if not driver.was_told:
                    self.say("the run is told to end")
                    self.pause()  # a SIGUSR1 to everybody has then come here, too
                driver.tell(already=signal.SIGUSR1 in self.told)
                if self.is_late:
                    return EXIT_PREEMPTED
        if code and (lost or (driver.was_told and code < 0)):  # told before it could listen, or too slow
            return EXIT_PREEMPTED
        return code if code >= 0 else 128 - code

    def await_nodes(self, ray: RayNode, names: Sequence[str], *, deadline: float, fatal: bool = True) -> None:
        """Return when all of these nodes have joined.

        Raises:
            SubmissionError: They have not when the deadline passes, or cannot; the message says who, and why.
        """
        while missing := sorted(set(names) - set(alive_nodes(ray.address))):
            if self.is_to_end:
                raise Preempted
            if ray.code is not None:
                if not fatal:
                    return
                raise SubmissionError(f"Ray's head ended with code {ray.code}: {ray.last_words()}")
            reasons = {name: self.marks.read(failed(name)) for name in missing}
            if any(reasons.values()) or time.monotonic() > deadline:
                seen = {name: reason or self.whereabouts(name) for name, reason in reasons.items()}
                raise SubmissionError(
                    f"{len(names) - len(missing)} of {len(names)} nodes joined Ray within "
                    f"{self.arguments.ready_timeout_s:g} s (cluster.ready_timeout_s); missing: "
                    + "; ".join(f"{name}: {words}" for name, words in seen.items())
                )
            self.pause()

    def whereabouts(self, name: str) -> str:
        """How far a node came that says nothing."""
        if not self.marks.has(started(name)):
            return (
                f"nothing started there, or it does not see {self.marks.folder}, which must be on storage that all "
                "nodes share"
            )
        log = self.marks.folder / f"ray-{name}.log"
        lines = log.read_text(errors="replace").split("\n") if log.exists() else []
        said = " ".join([line.strip() for line in lines if line.strip()][-3:])
        return f"started, but Ray did not join ({said or 'it says nothing'})"

    def worker(self) -> int:
        """Keep a Ray joined to the head's until the run is over."""
        while not self.marks.has(HEAD):
            self.pause()
            if self.marks.has(ENDED) or self.is_to_end:
                return 0
        address = self.marks.read(HEAD)
        while not self.is_over():
            with self.ray(head_address=address) as ray:
                while ray.code is None and not self.is_over():
                    self.pause()
                if ray.code is not None and not self.is_over():
                    self.say(f"Ray ended with code {ray.code}, joining again: {ray.last_words()}")
                    self.pause(RETRY_S)
        return 0

    def is_over(self) -> bool:
        """Whether the head has said so, or has had all the time there is to say so."""
        latest = min(self.told.values(), default=float("inf")) + self.arguments.grace_s + MARGIN_S
        return self.marks.has(ENDED) or self.is_late or time.monotonic() > latest


def own_address(name: str, nodes: dict[str, str], *, network: str = "") -> str:
    """The IPv4 address at which other nodes reach this one.

    Args:
        name: Of this node.
        nodes: Addresses or hostnames of all nodes by name, as Slurm has them.
        network: Interface to take it from; by default what Slurm says, unless the name means only this host to itself.

    Raises:
        SubmissionError: There is none.
    """
    if network:
        found = [item.address for item in psutil.net_if_addrs().get(network, ()) if item.family is socket.AF_INET]
        if found:
            return found[0]
        raise SubmissionError(
            f"cluster.network={network}: {name} has no such interface with an IPv4 address; it has "
            f"{', '.join(sorted(psutil.net_if_addrs()))}."
        )
    addresses = {other: socket.gethostbyname(host) for other, host in nodes.items()}
    others = [address for other, address in addresses.items() if other != name]
    if ipaddress.ip_address(addresses[name]).is_loopback and any(
        not ipaddress.ip_address(address).is_loopback for address in others
    ):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # sends nothing: only asks for the route
            probe.connect((others[0], 9))
            return str(probe.getsockname()[0])
    return addresses[name]


def is_restart() -> bool:
    """Whether the job was put back into the queue before."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line, which the batch script writes."""
    parser = argparse.ArgumentParser(prog="python -m launch.submit.slurm.node", description=__doc__)
    parser.add_argument("--marks", type=Path, required=True, help="folder that the nodes share, for this start")
    parser.add_argument("--nodes", required=True, help="'NAME=ADDRESS NAME=ADDRESS ...', head first")
    parser.add_argument("--cpus", type=int, required=True)
    parser.add_argument("--gpus", type=int, required=True)
    parser.add_argument("--memory-mib", type=int, required=True)
    parser.add_argument("--object-store-mib", type=int, required=True)
    parser.add_argument("--first-port", type=int, required=True)
    parser.add_argument("--last-port", type=int, required=True)
    parser.add_argument("--temp-dir", type=Path, required=True)
    parser.add_argument("--network", default="")
    parser.add_argument("--kill-wait-s", type=float, required=True)
    parser.add_argument("--ready-timeout-s", type=float, required=True)
    parser.add_argument("--grace-s", type=float, required=True)
    roles = parser.add_subparsers(dest="role", required=True)
    roles.add_parser("head").add_argument("driver", nargs="+")
    roles.add_parser("worker")
    return parser.parse_args(arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """One node; the exit code."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    adopt_orphans()
    node = Node(parsed(sys.argv[1:] if argv is None else argv))
    if "CUDA_VISIBLE_DEVICES" in os.environ:  # Slurm sets both, and libraries refuse to choose
        os.environ.pop("ROCR_VISIBLE_DEVICES", None)
    try:
        node.marks.make(started(node.name))
        node.resources.check()
        if node.arguments.role == "worker":
            return node.worker()
        node.say(f"on {', '.join(node.nodes)}: {shlex.join(node.arguments.driver)}")
        code = node.head()
    except Preempted:
        code = EXIT_PREEMPTED
    except (SubmissionError, OSError) as error:
        node.say(f"error: {error}")
        if node.arguments.role == "worker":
            with contextlib.suppress(OSError):  # it may be the very folder that cannot be reached
                node.marks.make(failed(node.name), str(error))
            return EXIT_USER_ERROR
        # At a restart everything was well before: a flaky node must not end the run for good.
        code = EXIT_PREEMPTED if is_restart() else EXIT_FAULT
    with contextlib.suppress(OSError):  # the batch script has the code as well
        node.marks.make(ENDED, str(code))
    return code


if __name__ == "__main__":
    sys.exit(main())
