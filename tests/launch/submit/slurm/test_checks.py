"""What cannot work is refused before it is submitted, with what was seen and what to do."""

import dataclasses
import fcntl
import re
from pathlib import Path

import pytest

from delta.errors import ConfigError
from launch.submit.plan import Plan, Resources
from launch.submit.slurm import commands
from launch.submit.slurm.checks import check_files, check_fit, is_local, refuse_duplicate, refuse_running
from launch.submit.slurm.commands import ActiveJob, NodeInfo, Partition
from launch.submit.slurm.config import SlurmConfig, seconds_of
from tests.launch.submit.slurm.test_rendering import plan

NODES = [
    NodeInfo(
        name=f"gpu{number}",
        cpus=96,
        memory_mib=960_000,
        gpus={"h100": 8} if number < 3 else {"a100": 4},
        features=frozenset({"infiniband"}),
        partitions=frozenset({"gpu"}),
        is_up=number != 1,
    )
    for number in range(4)
]
GPU = Partition(
    name="gpu",
    is_default=True,
    is_up=True,
    max_time_s=86_400,
    default_time_s=None,
    max_nodes=8,
    preempts=False,
    grace_s=0,
)
DEBUG = dataclasses.replace(GPU, name="debug", is_default=False)


def wanting(**resources: int) -> Plan:
    return plan(
        resources=Resources(**{"nodes": 1, "cpus": 8, "gpus": 0, "memory_mib": 0, "object_store_mib": 256, **resources})
    )


def fit(config: SlurmConfig, what: Plan, partition: Partition = GPU) -> list[str]:
    return list(check_fit(config, what, nodes=NODES, partitions=[partition, DEBUG]))


@pytest.mark.parametrize(
    ("settings", "resources", "expected"),
    [
        ({"partition": "gpus"}, {}, "cluster.partition=gpus: there is no such partition, but debug, gpu. .*mean gpu"),
        ({}, {"nodes": 9}, "nodes=9: a job in partition gpu may have 8"),
        ({}, {"nodes": 5}, "nodes=5: partition gpu has 4 with what is asked for"),
        ({}, {"cpus": 97}, "cluster.num_cpus=97: no node .* the most is 96, on gpu0"),
        ({}, {"gpus": 9}, "cluster.num_gpus=9: no node .* the most is 8, on gpu0"),
        ({}, {"memory_mib": 1_000_000}, r"cluster.host_memory_gib=.* \(1000000 MiB\): .* the most is 960000"),
        ({"gpu_type": "A100"}, {"gpus": 8}, "cluster.num_gpus=8: no node .* the most is 4, on gpu3"),
        ({"gpu_type": "b200"}, {"gpus": 1}, "cluster.gpu_type=b200: no node .* there is a100, h100"),
        ({}, {"gpus": 8, "nodes": 4}, "nodes=4: partition gpu has 3 with what is asked for"),
        ({"constraint": "nvlink"}, {}, "cluster.constraint=nvlink: .* there is infiniband"),
        ({"time_limit": "2-00:00:00"}, {}, r"time_limit=2-00:00:00 is longer than .* \(1-00:00:00\)"),
        ({"partition": "debug"}, {}, "no node of partition debug has that much; it has no nodes"),
    ],
)
def test_what_no_wait_can_bring_is_refused(settings: dict, resources: dict, expected: str):
    with pytest.raises(ConfigError, match=expected):
        fit(SlurmConfig(**settings), wanting(**resources))


def test_what_fits_passes_and_what_will_take_long_is_said():
    assert fit(SlurmConfig(time_limit="4:00:00", constraint="infiniband"), wanting(gpus=4)) == []
    (warning,) = fit(SlurmConfig(time_limit="4:00:00", gpu_type="h100"), wanting(gpus=8, nodes=3))
    assert "only 2 of the 3 nodes that fit are up" in warning


def test_one_partition_of_several_that_fits_is_enough():
    small = dataclasses.replace(GPU, name="small", max_nodes=1)
    both = SlurmConfig(time_limit="4:00:00", partition="small,gpu")
    nodes = [dataclasses.replace(node, partitions=frozenset({"gpu", "small"}), is_up=True) for node in NODES]
    (warning,) = check_fit(both, wanting(nodes=2), nodes=nodes, partitions=[small, GPU])
    assert "a job in partition small may have 1" in warning
    with pytest.raises(ConfigError, match=r"partition small may have 1.\n.*partition gpu may have 8"):
        list(check_fit(both, wanting(nodes=9), nodes=nodes, partitions=[small, GPU]))


def test_a_grace_that_preemption_does_not_leave_is_said():
    preempting = dataclasses.replace(GPU, preempts=True, grace_s=60)
    assert "a grace of 60 s" in fit(SlurmConfig(time_limit="4:00:00"), wanting(), preempting)[0]
    assert fit(SlurmConfig(time_limit="4:00:00", grace_s=50), wanting(), preempting) == []


def test_a_default_time_limit_must_leave_room_for_the_word_of_the_end():
    short = dataclasses.replace(GPU, default_time_s=180)
    with pytest.raises(ConfigError, match=r"gives a job 00:03:00; the run is told to end 180 s ahead"):
        fit(SlurmConfig(), wanting(), short)
    assert "lasts 1-00:00:00 at most" in fit(SlurmConfig(), wanting())[0]


def seen_here(
    tmp_path: Path, script: str = "true", *, run_dir: str = "run", changes: dict | None = None, **settings: object
) -> None:
    config = SlurmConfig(**{"allow_local": True, **settings})
    check_files(config, plan(**{"run_dir": tmp_path / run_dir, "image": config.image, **(changes or {})}), script)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"allow_local": False}, "run_dir, .* is below /tmp, .* cluster.allow_local=true"),
        ({"run_dir": "a b"}, "has ' ' in it"),
        ({"run_dir": "a%j"}, "has '%' in it"),
        ({"image": "/nowhere/delta.sif"}, "cluster.image=/nowhere/delta.sif is not found"),
        ({"image": "delta.sqsh"}, "cluster.image=delta.sqsh is not found"),
        ({"secrets_file": "/nowhere/secrets"}, "cluster.secrets_file=/nowhere/secrets: expected the absolute path"),
        ({"options": ["mail"]}, "cluster.options holds 'mail'"),
        ({"options": ["--comment=a b"]}, "cluster.options holds '--comment=a b'; .*without spaces"),
        ({"account": "my lab"}, "cluster.account='my lab': expected no spaces"),
        ({"changes": {"work_dir": Path("/home/my files")}}, "the folder of the command, /home/my files, has ' ' in it"),
        ({"image": "delta", "run_dir": "lr=1,2"}, "lr=1,2 would be mounted"),
        ({"image": "delta", "changes": {"inputs": (Path("/data/a:b"),)}}, "/data/a:b would be mounted"),
        ({"last_port": 20_104}, "are 105 ports; expected at least 115 with cluster.num_cpus=2"),
        ({"script": "if true"}, "the batch script cannot be read: .*cluster.setup"),
    ],
)
def test_what_is_wrong_on_this_machine_is_refused(tmp_path, monkeypatch, arguments: dict, expected: str):
    monkeypatch.setattr("launch.submit.slurm.checks.LOCAL_FOLDERS", (str(tmp_path), "/tmp"))
    expected = expected.replace("/tmp", re.escape(str(tmp_path))) if "below" in expected else expected
    with pytest.raises(ConfigError, match=expected):
        seen_here(tmp_path, **arguments)


def test_what_is_in_order_on_this_machine_passes_and_leaves_nothing(tmp_path):
    (tmp_path / "delta.sif").touch()
    seen_here(tmp_path, image=str(tmp_path / "delta.sif"), options=["--mail-type=END", "-W"])
    assert [path.name for path in tmp_path.iterdir()] == ["delta.sif"]


def test_secrets_that_others_may_read_are_refused(tmp_path):
    secrets = tmp_path / "secrets"
    secrets.touch(mode=0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        seen_here(tmp_path, secrets_file=str(secrets))
    secrets.chmod(0o600)
    seen_here(tmp_path, secrets_file=str(secrets))


@pytest.mark.parametrize(
    ("changes", "settings", "what"),
    [
        ({"work_dir": Path("/local/code")}, {}, "the folder of the command"),
        ({"environment": {"DELTA_CACHE": "/local/cache"}}, {}, "DELTA_CACHE"),
        ({}, {"image": "/local/delta.sif"}, "cluster.image"),
        ({}, {"secrets_file": "/local/secrets"}, "cluster.secrets_file"),
    ],
)
def test_all_that_nodes_read_must_be_where_they_see_it(tmp_path, monkeypatch, changes, settings, what):
    monkeypatch.setattr("launch.submit.slurm.checks.LOCAL_FOLDERS", ("/local",))
    monkeypatch.setattr("psutil.disk_partitions", lambda all: [])
    seen_here(tmp_path, allow_local=False)
    with pytest.raises(ConfigError, match=f"{what}, /local/.*, is below /local"):
        seen_here(tmp_path, allow_local=False, changes=changes, **settings)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        seen_here(tmp_path, run_dir="file/run")


def test_storage_in_memory_is_local_wherever_it_is_mounted(monkeypatch):
    class Mounts:
        mountpoint, fstype = "/fast", "tmpfs"

    monkeypatch.setattr("psutil.disk_partitions", lambda all: [Mounts])
    assert "in memory (tmpfs)" in is_local(Path("/fast/run"))
    assert is_local(Path("/slow/run")) == ""


def test_a_run_that_is_under_way_is_not_submitted(tmp_path):
    refuse_running(tmp_path)
    with (tmp_path / ".driver").open("w") as held:
        held.write("process 7 on h1")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match=r"in use by another run .process 7 on h1"):
            refuse_running(tmp_path)
    refuse_running(tmp_path)


def test_a_folder_has_one_job_at_a_time():
    refuse_duplicate(plan(), [])
    with pytest.raises(ConfigError, match=r"has a job already: 41 .* is PENDING.*scancel 41"):
        refuse_duplicate(plan(), [ActiveJob(job_id="41", state="PENDING")])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("2:30", 150),
        ("4:00:00", 14_400),
        ("2-12", 216_000),
        ("1-02:30", 95_400),
        ("1-00:00:05", 86_405),
        ("UNLIMITED", None),
        ("4h", None),
    ],
)
def test_times_are_read_as_slurm_does(text: str, seconds: int | None):
    assert seconds_of(text) == seconds


def test_what_slurm_says_of_nodes_and_partitions_is_read(monkeypatch):
    said = {
        "node": "NodeName=g1 Arch=x86_64 CPUAlloc=0 CPUEfctv=8 CPUTot=16 AvailableFeatures=a,b ActiveFeatures=a "
        "Gres=gpu:h100:4(S:0-1),gpu:2,nvme:1 NodeAddr=10.0.0.1 OS=Linux 6.1 #1 SMP RealMemory=32000 "
        "State=IDLE+DRAIN Partitions=low,high  Reason=disk is full\n"
        "NodeName=g2 CPUTot=4 AvailableFeatures=(null) Gres=(null) RealMemory=1 State=MIXED Partitions=low\n",
        "partition": "PartitionName=low Default=YES GraceTime=60 DefaultTime=NONE MaxNodes=UNLIMITED "
        "MaxTime=1-00:00:00 PreemptMode=REQUEUE State=UP\n",
    }
    monkeypatch.setattr(commands, "run", lambda *command: said[command[-1]])
    first, second = commands.nodes()
    assert (first.cpus, first.gpus, first.features, first.is_up) == (8, {"h100": 4, "": 2}, {"a", "b"}, False)
    assert (first.gpus_of("h100"), first.gpus_of(""), second.gpus_of("")) == (4, 6, 0)
    assert (second.cpus, second.features, second.partitions, second.is_up) == (4, frozenset(), {"low"}, True)
    (partition,) = commands.partitions()
    assert (partition.max_time_s, partition.max_nodes, partition.preempts, partition.grace_s) == (
        86_400,
        None,
        True,
        60,
    )
