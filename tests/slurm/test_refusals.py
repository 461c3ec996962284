"""What a real Slurm cannot do for a run is said before anything is sent to it."""

from pathlib import Path

import pytest

from tests.conftest import Train
from tests.launch.conftest import in_forks
from tests.slurm.cluster import CPUS, GPUS, MEMORY_MIB, SlurmCluster
from tests.slurm.jobs import TWO_NODES


@pytest.fixture(scope="module")
def submit(slurm: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Train:
    return in_forks(tmp_path_factory.mktemp("said"), "launch.submit.__main__", environment=slurm.environment)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["cluster.partition=hihg"], "cluster.partition=hihg: there is no such partition, but high, low. Did you mean"),
        (["nodes=3"], "nodes=3: partition low has 2 with what is asked for"),
        (["cluster.num_cpus=9"], f"cluster.num_cpus=9: no node of partition low has that much; the most is {CPUS}"),
        (
            ["cluster.num_gpus=5", "nodes=1"],
            f"cluster.num_gpus=5: no node of partition low has that much; the most is {GPUS}",
        ),
        (["cluster.host_memory_gib=99"], f"no node of partition low has that much; the most is {MEMORY_MIB}"),
        (["cluster.reservation=mine"], "sbatch refuses: "),
        (["cluster.options=[--no-such-option]"], "sbatch refuses: "),
    ],
)
def test_what_the_cluster_cannot_do_is_said_before_anything_is_sent(
    slurm: SlurmCluster, submit: Train, tmp_path: Path, overrides: list[str], message: str
):
    run_dir = tmp_path / "refused"
    said = submit(*TWO_NODES, *overrides, f"run_dir={run_dir}")
    assert said.returncode == 2
    assert message in said.stderr
    assert "Traceback" not in said.stderr
    assert slurm.run("squeue", "--noheader").stdout == ""
    assert not run_dir.exists()


def test_a_run_has_one_job_at_a_time(slurm: SlurmCluster, submit: Train, tmp_path: Path):
    held = (*TWO_NODES, "cluster.options=[--hold]", f"run_dir={tmp_path / 'run'}")
    assert "submitted" in submit(*held, check=True).stdout
    (job_id,) = slurm.run("squeue", "--noheader", "--format=%i").stdout.split()
    said = submit(*held)
    assert said.returncode == 2
    assert f"has a job already: {job_id}" in said.stderr
    assert slurm.run("squeue", "--noheader", "--format=%i").stdout.split() == [job_id]
    slurm.run("scancel", job_id)
    slurm.wait_for(job_id, "CANCELLED")
    again = submit(*held, check=True)
    assert "submitted" in again.stdout
    slurm.run("scancel", "--name", slurm.job(job_id)["JobName"])
