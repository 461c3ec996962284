"""Checks of the machine, each under a condition that is really broken."""

import os
import resource
import socket
import subprocess
import tempfile

import pytest

from launch.doctor import accelerators, folders, limits, network, trials
from launch.doctor.check import Status
from tests.launch.doctor.conftest import NEW_NAMES, NEW_NETWORK, alone, needs_root, unshare
from tests.launch.test_conf import composed


def test_more_processors_than_there_are_is_a_warning():
    there = len(os.sched_getaffinity(0))
    assert limits.processors(composed(f"cluster.num_cpus={there}")).status is Status.ok
    found = limits.processors(composed(f"cluster.num_cpus={there + 1}"))
    assert found.status is Status.warning
    assert f"cluster.num_cpus={there}" in found.remedy


def test_shared_memory_must_hold_the_object_store(small_disk):
    found = limits.shared_memory(composed(), folder=small_disk)
    assert found.status is Status.warning
    assert "cluster.object_store_mib=256" in found.expected
    assert "--shm-size" in found.remedy
    # From 10 GB on Ray would not start.
    large = composed("cluster.object_store_mib=10000")
    assert limits.shared_memory(large, folder=small_disk).status is Status.failed
    assert limits.shared_memory(composed(), folder=small_disk / "none").status is Status.failed


def test_a_shared_memory_that_others_filled_is_seen(small_disk, monkeypatch):
    monkeypatch.setattr(limits, "MIB", 1024)  # an object store of 256 KiB
    assert limits.shared_memory(composed(), folder=small_disk).status is Status.ok
    (small_disk / "left").write_bytes(bytes(900_000))
    assert limits.shared_memory(composed(), folder=small_disk).status is Status.warning


@pytest.mark.parametrize(("most", "status"), [(9000, Status.ok), (2000, Status.warning), (500, Status.failed)], ids=str)
def test_open_files(most, status):
    def under_limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, most))
        return limits.open_files(composed())

    found = alone(under_limit)
    assert found.status is status
    assert f"256, at most {most}" in found.seen


@needs_root
@pytest.mark.parametrize(("most", "status"), [(5000, Status.ok), (1000, Status.warning), (99, Status.failed)], ids=str)
def test_processes_of_a_user_and_of_a_container(most, status, tmp_path):
    def under_limit():
        resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
        os.setuid(65534)  # root is not limited
        return limits.processes(composed(), pids_max=())

    assert alone(under_limit).status is status
    (tmp_path / "pids.max").write_text(f"{most}\n")
    found = limits.processes(composed(), pids_max=(tmp_path / "pids.max", tmp_path / "none"))
    assert found.status is status
    (tmp_path / "pids.max").write_text("max\n")
    assert limits.processes(composed(), pids_max=(tmp_path / "pids.max",)).seen in ("no limit", f"{most} (ulimit -u)")


def test_only_rdma_needs_locked_memory():
    assert limits.locked_memory(composed()).status is Status.skipped
    assert limits.locked_memory(composed("cluster.num_gpus=1")).status in (Status.ok, Status.warning)


@pytest.mark.parametrize("variable", ["GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"])
def test_an_interface_that_is_not_there_is_named(variable, monkeypatch):
    monkeypatch.setenv(variable, "nope0")
    found = network.interfaces(composed())
    assert found.status is Status.failed
    assert f"{variable}=nope0" in found.seen
    assert "lo" in found.seen
    monkeypatch.setenv(variable, "lo")
    assert network.interfaces(composed()).status is Status.ok


@pytest.mark.parametrize(
    ("variable", "wanted", "expected"),
    [
        ("NCCL_SOCKET_IFNAME", "eth", ["eth0", "eth1"]),
        ("NCCL_SOCKET_IFNAME", "=eth", []),
        ("NCCL_SOCKET_IFNAME", "=eth1,ib0", ["eth1", "ib0"]),
        ("NCCL_SOCKET_IFNAME", "^eth,lo", ["ib0"]),
        ("NCCL_SOCKET_IFNAME", "^=eth0", ["lo", "eth1", "ib0"]),
        ("GLOO_SOCKET_IFNAME", "eth", []),
        ("GLOO_SOCKET_IFNAME", "eth0,ib0", ["eth0", "ib0"]),
    ],
)
def test_each_library_reads_its_variable_in_its_own_way(variable, wanted, expected):
    assert sorted(network.matching(variable, wanted, dict.fromkeys(["lo", "eth0", "eth1", "ib0"]))) == sorted(expected)


@needs_root
def test_nodes_need_an_interface_between_them():
    def cut_off():
        unshare(NEW_NETWORK)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return network.interfaces(composed("nodes=2"))

    assert alone(cut_off).seen == "only lo"


@needs_root
@pytest.mark.parametrize(("nodes", "status"), [(1, Status.warning), (2, Status.failed)])
def test_a_host_name_without_an_address(nodes, status):
    def renamed():
        unshare(NEW_NAMES)
        socket.sethostname("no-such.invalid")
        return network.host_name(composed(f"nodes={nodes}"))

    found = alone(renamed)
    assert found.status is status
    assert "no-such.invalid" in found.seen
    assert "/etc/hosts" in found.remedy


@needs_root
def test_few_ports_are_a_warning_and_none_is_a_failure():
    def narrow():
        unshare(NEW_NETWORK)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        network.PORT_RANGE.write_text("40000 40020")
        with socket.create_server(("127.0.0.1", 40007)):
            return network.ports(composed())

    def without_loopback():
        unshare(NEW_NETWORK)
        return network.ports(composed())

    found = alone(narrow)
    assert found.status is Status.warning
    assert "20 of 21 ports free" in found.seen
    assert "lo up" in alone(without_loopback).remedy
    assert network.ports(composed()).status is Status.ok


def test_the_paths_of_rays_sockets_must_be_short(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    assert folders.temporary_folder(composed()).status is Status.ok
    deep = tmp_path / ("d" * 60)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    found = folders.temporary_folder(composed())
    assert found.status is Status.failed
    assert "TMPDIR" in found.remedy


def test_a_folder_for_temporary_files_without_room(small_disk, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    monkeypatch.setattr(folders, "SOCKET_PATH", 1000)
    assert folders.temporary_folder(composed()).status is Status.warning


def test_a_run_folder_needs_room_for_what_is_kept(small_disk):
    small = ("model.num_layers=1", "model.hidden_size=32", "model.intermediate_size=32", "model.num_heads=1")
    tight = (*small, "model.num_kv_heads=1", f"run_dir={small_disk}/a/run", "checkpoint.keep=1")
    assert folders.run_folder(composed(*tight)).status is Status.ok
    found = folders.run_folder(composed(*tight, "checkpoint.keep=20"))
    assert found.status is Status.failed
    assert "21 checkpoints" in found.expected
    assert list(small_disk.iterdir()) == []


def test_folders_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    found = folders.run_folder(composed(f"run_dir={tmp_path}/file/run"))
    assert found.status is Status.failed
    assert "Not a directory" in found.seen
    monkeypatch.setenv("DELTA_CACHE", str(tmp_path / "file"))
    assert folders.cache_folder(composed()).status is Status.failed
    monkeypatch.setenv("DELTA_CACHE", str(tmp_path))
    assert folders.cache_folder(composed()).status is Status.ok


def test_gpus_that_are_not_there(monkeypatch):
    assert accelerators.gpus(composed()).status is Status.skipped
    monkeypatch.setenv("PATH", "")
    found = accelerators.gpus(composed("cluster.num_gpus=8"))
    assert found.status is Status.failed
    assert "no NVIDIA driver" in found.seen
    assert found.expected == "8 GPUs"


def test_the_sandbox_is_demanded_or_wished_for(monkeypatch):
    def without_bubblewrap(mode):
        def examined():
            from workers.verifier.code.sandbox import probe

            probe.cache_clear()
            os.environ["PATH"] = ""
            return trials.sandbox(composed(f"verifier.code.sandbox={mode}"))

        return alone(examined)

    assert "not installed" in without_bubblewrap("auto").seen
    assert without_bubblewrap("auto").status is Status.warning
    assert without_bubblewrap("bubblewrap").status is Status.failed
    assert without_bubblewrap("process").status is Status.warning
    assert trials.sandbox(composed("verifier=remote")).status is Status.skipped


def test_the_tiny_engine_is_one_for_the_devices_of_the_run():
    """Two heads do not go over eight GPUs; and what keeps vLLM from compiling on CPUs is not for GPUs."""
    settings, environment = trials.small_engine(composed("cluster.num_gpus=8", "rollout.tensor_parallel_size=8"))
    assert settings.tensor_parallel_size == 1
    assert not {"TORCHDYNAMO_DISABLE", "VLLM_CPU_KVCACHE_SPACE"} & set(environment)
    assert trials.small_engine(composed())[1]["TORCHDYNAMO_DISABLE"] == "1"


@pytest.mark.ray
def test_ranks_that_cannot_talk_are_a_finding():
    def over_no_interface():
        os.environ["GLOO_SOCKET_IFNAME"] = "nope0"
        return trials.all_reduce(composed())

    found = alone(over_no_interface)
    assert found.status is Status.failed
    assert "GLOO_SOCKET_IFNAME" in found.remedy
    assert alone(lambda: trials.all_reduce(composed())).status is Status.ok
