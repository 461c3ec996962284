"""Where the processes of a run meet: at the address that the cluster knows their node by, and nowhere else.

Left to themselves gloo and NCCL look the hostname up or take the first interface they find, and rendezvous stores
listen on all of them; on a node with several networks that is often the wrong one.
"""

import os
import socket
from datetime import timedelta
from typing import Any

import psutil
import ray.util
import torch.distributed


def own_address() -> str:
    """IP address of this process's node; the loopback address in a cluster of this host alone."""
    return str(ray.util.get_node_ip_address())


def interface_of(address: str) -> str | None:
    """Name of the network interface that has `address`; None if none here has."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address.split("%")[0] == address for entry in addresses):
            return name
    return None


def use_own_address() -> None:
    """Make gloo, NCCL and vLLM in this process use the node's address, unless the user has chosen for them."""
    address = own_address()
    os.environ.setdefault("VLLM_HOST_IP", address)
    if interface := interface_of(address):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")  # exactly this one, not all it is a prefix of


def free_address() -> tuple[str, int]:
    """The node's address, and a port there that is free to listen on."""
    address = own_address()
    with socket.create_server((address, 0), family=_family(address)) as probe:
        return address, int(probe.getsockname()[1])


def listening(address: str, port: int) -> socket.socket:
    """A socket that listens at `address` only."""
    return socket.create_server((address, port), family=_family(address))


def rendezvous_store(*, address: str, port: int, rank: int, world_size: int, timeout_s: float) -> Any:
    """Where the ranks of a process group find each other; rank 0 keeps it, at `address`."""
    return torch.distributed.TCPStore(  # type: ignore[attr-defined]
        address,
        port,
        world_size,
        is_master=rank == 0,
        timeout=timedelta(seconds=timeout_s),
        master_listen_fd=listening(address, port).detach() if rank == 0 else None,
    )


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
