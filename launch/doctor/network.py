"""The name of this machine, its network interfaces, and its ports."""

import ipaddress
import os
import socket
from collections.abc import Mapping
from pathlib import Path

import psutil

from launch.doctor.check import Finding, failed, ok, warning
from workers.controller.config import TrainConfig

VARIABLES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME")
PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
CONNECT_S = 2.0
MIN_PORTS = 1000
"""Of a run on two cores some 150 are taken; Ray alone takes a few for every worker process."""
ONLY_HERE = ("lo", "docker", "veth", "br-", "virbr")
"""Interfaces that no other node can be reached by; NCCL takes them last, too."""


def host_name(config: TrainConfig) -> Finding:
    """The name of this machine leads to an address; gloo and Ray look it up."""
    name = socket.gethostname()
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        describe = failed if config.nodes > 1 else warning
        return describe(
            f"{name}: {error.strerror}",
            expected="a name that resolves",
            remedy=f"Add '127.0.0.1 {name}' (or the address of this machine) to /etc/hosts.",
        )
    addresses = sorted({str(entry[4][0]) for entry in found})
    if config.nodes > 1 and all(ipaddress.ip_address(address).is_loopback for address in addresses):
        return warning(
            f"{name} is {', '.join(addresses)}",
            expected="an address that other nodes can reach",
            remedy="Mend /etc/hosts, or name the interface in GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME.",
        )
    return ok(f"{name} is {', '.join(addresses)}")


def interfaces(config: TrainConfig) -> Finding:
    """The interface that collectives will use: as the environment names it, else as the libraries choose."""
    up = {name: state for name, state in psutil.net_if_stats().items() if state.isup}
    for variable in VARIABLES:
        wanted = os.environ.get(variable, "")
        if wanted and not matching(variable, wanted, up):
            return failed(
                f"{variable}={wanted}, and no such interface is up; there are {', '.join(sorted(up))}",
                expected="the name of one of them",
                remedy=f"Correct {variable}, or unset it and let the library choose.",
            )
    reachable = [name for name in up if not name.startswith(ONLY_HERE)]
    if config.nodes > 1 and not reachable:
        return failed(
            f"only {', '.join(sorted(up))}", expected="an interface to the other nodes", remedy="Connect the machine."
        )
    named = [f"{name} by {os.environ[name]}" for name in VARIABLES if os.environ.get(name)]
    # InfiniBand's interfaces first, then what others can reach, then the rest: NCCL's order.
    first = min(up, key=lambda name: (not name.startswith("ib"), name not in reachable, name), default="none")
    chosen = ", ".join(named) or f"{first} ({_address(first)})"
    return ok(f"{chosen}; up: {', '.join(sorted(up))}")


def matching(variable: str, wanted: str, up: Mapping[str, object]) -> list[str]:
    """Interfaces that the value of such a variable allows.

    NCCL takes a list of prefixes, exact names after `=`, and with `^` all but those. Gloo and TensorPipe take names.
    """
    if not variable.startswith("NCCL"):
        return [name for name in wanted.split(",") if name in up]
    names = wanted.lstrip("^=").split(",")
    exact = wanted.startswith(("=", "^="))
    hits = [name for name in up if any(name == one if exact else name.startswith(one) for one in names)]
    return [name for name in up if name not in hits] if wanted.startswith("^") else hits


def ports(_: TrainConfig) -> Finding:
    """Enough ports are free in the range that the system hands out, from which Ray and the rendezvous take theirs."""
    low, high = map(int, PORT_RANGE.read_text().split())
    taken = {
        connection.laddr.port
        for connection in psutil.net_connections("tcp")
        if connection.laddr and low <= connection.laddr.port <= high
    }
    free = high - low + 1 - len(taken)
    seen = f"{free} of {high - low + 1} ports free ({low} to {high})"
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=CONNECT_S).close()
    except OSError as error:
        return failed(
            f"127.0.0.1 cannot be reached: {error.strerror or error}",
            expected="a loopback device with free ports",
            remedy="Bring it up: ip link set lo up.",
        )
    if free < MIN_PORTS:
        return warning(
            seen,
            expected=f"{MIN_PORTS} or more",
            remedy=f"End what holds them, or widen {PORT_RANGE}: sysctl net.ipv4.ip_local_port_range='32768 60999'.",
        )
    return ok(seen)


def _address(interface: str) -> str:
    addresses = psutil.net_if_addrs().get(interface, [])
    return next((entry.address for entry in addresses if entry.family == socket.AF_INET), "no IPv4 address")
