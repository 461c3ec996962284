"""Hosts emulated on this one: each with a name, an address, processes, /tmp and /dev/shm of its own.

A host is a process in namespaces of its own (network, hostname, mounts, processes, System V memory) behind a virtual
cable. Everything of it is gone when that process is killed: its processes die with it, the cable with its last process.
Shared with the others: the kernel and its clock, CPUs and memory, users, and all files but those of /tmp and /dev/shm,
which stand for a cluster's shared storage.
"""

import ctypes
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1
LISTENING = "0A"
"""State of a socket in /proc/net/tcp."""

# Process 1 of a host: it says that its namespaces are there, waits for the cable, and lives as long as its daemon.
INIT = """
set -e
echo ready
read -r
hostname "$HOST_NAME"
mount --make-rprivate /
mount --bind "$HOSTS_FILE" /etc/hosts
mount -t tmpfs -o size=4g shm /dev/shm
for folder in $SHARED; do
  mkdir -p "$OWN_TMP/${folder#/tmp/}"
  mount --bind "$folder" "$OWN_TMP/${folder#/tmp/}"
done
mount --rbind "$OWN_TMP" /tmp
ip link set lo up
ip address add "$ADDRESS/24" dev eth0
ip link set eth0 up
"$@" &
echo up
wait $!
"""


def die_with_parent() -> None:
    """To be called in a new process: it is killed when its parent dies, however that dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


@dataclass(frozen=True, kw_only=True)
class Leftovers:
    """What is on a host beside its own daemons."""

    processes: tuple[str, ...]
    ports: tuple[int, ...]
    shared_memory: tuple[str, ...]
    temporary: tuple[str, ...]


NOTHING = Leftovers(processes=(), ports=(), shared_memory=(), temporary=())


class Host:
    """One emulated host on a bridge of this one."""

    def __init__(self, name: str, *, address: str, bridge: str, folder: Path, shared: Sequence[Path]) -> None:
        """Describe it; `start` brings it up.

        Args:
            name: Its hostname.
            address: IPv4 address in the /24 of the bridge.
            bridge: Bridge that its cable ends at.
            folder: For its files; holds `hosts`, the hosts file of all.
            shared: Folders below /tmp that it sees as we do; the rest of its /tmp is its own.
        """
        self.name, self.address = name, address
        self._bridge, self._cable = bridge, f"{bridge}{name}"
        self._hosts_file, self.tmp = folder / "hosts", folder / name / "tmp"
        self._log = folder / name / "host.log"
        self._shared = shared
        self._process: subprocess.Popen[str] | None = None

    def start(self, daemon: Sequence[str], *, environment: dict[str, str]) -> None:
        """Boot, with an empty /tmp, into `daemon`, which must stay in the foreground."""
        shutil.rmtree(self.tmp, ignore_errors=True)
        self.tmp.mkdir(parents=True)
        unshare = ("unshare", "--net", "--uts", "--mount", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc")
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [*unshare, "bash", "-c", INIT, "init", *daemon],
                env={
                    **environment,
                    "HOST_NAME": self.name,
                    "HOSTS_FILE": str(self._hosts_file),
                    "OWN_TMP": str(self.tmp),
                    "SHARED": " ".join(str(path) for path in self._shared),
                    "ADDRESS": self.address,
                },
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                preexec_fn=die_with_parent,
            )
        self._expect("ready")
        ip("link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", str(self._process.pid))
        ip("link", "set", self._cable, "master", self._bridge, "up")
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        self._expect("up")

    def kill(self) -> None:
        """Pull the plug: all processes die at once, and nobody says goodbye."""
        if self._process is not None:
            # Not SIGTERM, which unshare ignores.
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                with suppress(BrokenPipeError):
                    stream.close()
            self._process = None
            with suppress(subprocess.CalledProcessError):  # it goes by itself, but in its own time
                ip("link", "delete", self._cable)

    @property
    def is_up(self) -> bool:
        """Whether it was started and not killed since."""
        return self._process is not None

    def cut(self) -> None:
        """Pull the network cable; everything on the host runs on."""
        ip("link", "set", self._cable, "down")

    def restore(self) -> None:
        """Plug the cable in again."""
        ip("link", "set", self._cable, "up")

    def processes(self) -> dict[int, str]:
        """Command lines of the living processes on the host, by the process id that we see."""
        namespace = (Path("/proc") / str(self._init()) / "ns/pid").readlink()
        found = {}
        for process in Path("/proc").iterdir():
            with suppress(OSError):
                if process.name.isdigit() and (process / "ns/pid").readlink() == namespace:
                    command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if command:  # the dead have none
                        found[int(process.name)] = command.strip()
        return found

    def ports(self) -> set[int]:
        """TCP ports that somebody listens on."""
        found = set()
        for table in ("tcp", "tcp6"):
            for line in (Path("/proc") / str(self._init()) / "net" / table).read_text().splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                if state == LISTENING:
                    found.add(int(local.rsplit(":", 1)[1], 16))
        return found

    def leftovers(self, *, daemon: str, port: int) -> Leftovers:
        """What is there beside `daemon`, which listens on `port`."""
        shared = {path.relative_to("/tmp").parts[0] for path in self._shared}
        own = {
            self._init(),
            *(pid for pid, command in self.processes().items() if Path(command.split()[0]).name == daemon),
        }
        return Leftovers(
            processes=tuple(command[:200] for pid, command in self.processes().items() if pid not in own),
            ports=tuple(sorted(self.ports() - {port})),
            shared_memory=tuple(sorted(path.name for path in self._inside("dev/shm").iterdir())),
            temporary=tuple(sorted(path.name for path in self._inside("tmp").iterdir() if path.name not in shared)),
        )

    def _inside(self, path: str) -> Path:
        return Path("/proc") / str(self._init()) / "root" / path

    def _init(self) -> int:
        """Its process 1, as a process of ours."""
        assert self._process is not None, f"{self.name} is not up"
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(children[0])

    def _expect(self, word: str) -> None:
        line = self._process.stdout.readline().strip()
        assert line == word, f"{self.name} did not come up ({line!r}): {self._log.read_text()[-2000:]}"
