"""Processes meet at their node's address, and listen nowhere else."""

import os

import psutil
import pytest

from workers import addresses
from workers.addresses import free_address, interface_of, rendezvous_store, use_own_address

NAMES = ("VLLM_HOST_IP", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


@pytest.fixture
def environment(monkeypatch):
    """Without the variables, which come back afterwards."""
    for name in NAMES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def other_address() -> tuple[str, str]:
    """A network interface of this machine that is not the loopback one, and its address."""
    for name, entries in psutil.net_if_addrs().items():
        for entry in entries:
            if entry.family.name == "AF_INET" and not entry.address.startswith("127."):
                return name, entry.address
    pytest.skip("this machine has no network interface")


def test_the_interface_is_the_one_with_the_nodes_address(environment, monkeypatch):
    name, address = other_address()
    monkeypatch.setattr(addresses, "own_address", lambda: address)
    use_own_address()
    assert [os.environ[variable] for variable in NAMES] == [address, name, f"={name}"]
    assert interface_of("192.0.2.1") is None


def test_in_a_cluster_of_this_host_alone_it_is_the_loopback_one(environment, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "mine")
    use_own_address()
    assert os.environ["VLLM_HOST_IP"] == "127.0.0.1"
    assert os.environ["GLOO_SOCKET_IFNAME"] == "mine"  # what the user has chosen stays
    assert os.environ["NCCL_SOCKET_IFNAME"] == f"={interface_of('127.0.0.1')}"


def test_a_rendezvous_listens_at_its_address_alone():
    address, port = free_address()
    store = rendezvous_store(address=address, port=port, rank=0, world_size=1, timeout_s=10)
    store.set("key", "value")
    assert store.get("key") == b"value"
    listening = {entry.laddr for entry in psutil.Process().net_connections("inet") if entry.status == "LISTEN"}
    assert {entry.ip for entry in listening if entry.port == port} == {"127.0.0.1"}
