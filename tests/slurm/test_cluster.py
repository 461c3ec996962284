"""The emulated cluster behaves like one: what the tests of submitted runs stand on."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.slurm.cluster import SLURMD_PORT, SlurmCluster, slurm_cluster, wait_until
from tests.slurm.hosts import NOTHING


def test_a_job_runs_on_two_hosts_that_share_storage_and_nothing_else(slurm: SlurmCluster, tmp_path: Path):
    file = f"private-{os.getpid()}"
    job = slurm.submit(
        f"srun bash -c 'touch /tmp/{file} /dev/shm/{file}; hostname -I > {tmp_path}/$(hostname); "
        f"ls /tmp /dev/shm | grep -c {file} >> {tmp_path}/$(hostname); echo $CUDA_VISIBLE_DEVICES'; rm /tmp/{file}",
        "--nodes=2",
        "--gres=gpu:2",
        f"--output={tmp_path}/log",
    )
    slurm.wait_for(job, "COMPLETED")
    assert {name: (tmp_path / name).read_text().split() for name in slurm.hosts} == {
        name: [host.address, "2"] for name, host in slurm.hosts.items()
    }
    assert (tmp_path / "log").read_text().split() == ["0,1", "0,1"]
    assert slurm.leftovers("n2").temporary == (file,), "made on n2 and removed on n1"
    assert not Path("/tmp", file).exists()
    assert not Path("/dev/shm", file).exists()
    slurm.run("srun", "--nodes=2", "rm", "-f", f"/tmp/{file}", f"/dev/shm/{file}")
    slurm.wait_until_clean()


def test_what_a_job_leaves_is_seen(slurm: SlurmCluster):
    server = f"{sys.executable} -m http.server 20123 --directory /dev/shm"
    held = slurm.submit(f"echo held > /dev/shm/segment; exec {server}", "--nodelist=n1")
    wait_until(lambda: slurm.leftovers("n1").ports == (20123,), lambda: slurm.log(held))
    left = slurm.leftovers("n1")
    assert left.shared_memory == ("segment",)
    assert server in left.processes
    assert slurm.leftovers("n2") == NOTHING
    slurm.run("scancel", held)
    slurm.wait_for(held, "CANCELLED")
    slurm.run("srun", "--nodelist=n1", "rm", "/dev/shm/segment")
    slurm.wait_until_clean()


def test_a_preempted_job_is_told_requeued_and_goes_on(slurm: SlurmCluster, tmp_path: Path):
    # Whoever ends within the grace is not requeued by Slurm but has failed, and must ask for it.
    script = f"""
    [ "${{SLURM_RESTART_COUNT:-0}}" = 0 ] || exit 0
    srun bash -c 'trap "echo told >> {tmp_path}/told; exit 75" TERM; touch {tmp_path}/started; sleep 600 & wait'
    [ $? = 75 ] && scontrol requeue $SLURM_JOB_ID && sleep 600"""
    low = slurm.submit(script, "--nodes=2", "--ntasks=1", "--exclusive", "--requeue", "--partition=low")
    slurm.wait_for(low, "RUNNING")
    wait_until((tmp_path / "started").exists, lambda: slurm.log(low))
    high = slurm.submit("true", "--nodes=2", "--exclusive", "--partition=high")
    slurm.wait_for(high, "COMPLETED")
    slurm.start_now(low)
    assert slurm.wait_for(low, "COMPLETED")["Restarts"] == "1"
    assert (tmp_path / "told").read_text() == "told\n"


def test_a_killed_host_is_missed_and_comes_back_empty(tmp_path: Path, slurm: SlurmCluster):
    slurm.kill_host("n2")
    slurm.start_host("n2")
    slurm.wait_for_node("n2", "IDLE")
    job = slurm.submit(f"srun hostname > {tmp_path}/names", "--nodes=2")
    slurm.wait_for(job, "COMPLETED")
    assert sorted((tmp_path / "names").read_text().split()) == ["n1", "n2"]


def test_a_cut_host_cannot_be_reached_until_it_is_restored(slurm: SlurmCluster):
    def answers() -> bool:
        with (
            contextlib.suppress(OSError),
            socket.create_connection((slurm.hosts["n1"].address, SLURMD_PORT), timeout=1),
        ):
            return True
        return False

    assert answers()
    slurm.cut("n1")
    assert not answers()
    slurm.restore("n1")
    wait_until(answers, lambda: "n1 does not answer although its cable is plugged in again")


def test_two_clusters_side_by_side_leave_nothing():
    with slurm_cluster() as one, slurm_cluster() as other:
        for cluster in (one, other):
            cluster.wait_for(cluster.submit("true"), "COMPLETED")
    links = subprocess.run(["ip", "link"], capture_output=True, text=True, check=True).stdout
    for cluster in (one, other):
        assert not cluster.folder.exists()
        assert cluster._bridge not in links
