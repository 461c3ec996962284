"""Runs that are submitted to a real Slurm: across two nodes, through everything that befalls a job, the same run."""

import contextlib
from pathlib import Path

import pytest

from tests.integration.runs import STEPS, course, faults, measured, weights_hash
from tests.slurm.cluster import SlurmCluster
from tests.slurm.jobs import Run
from workers.controller.checkpoints import CheckpointStore

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

LEARNER, ENGINE = "LearnerWorker", "RolloutWorker"


def assert_same(run_dir: Path, uninterrupted: Path) -> None:
    assert course(run_dir) == course(uninterrupted)
    assert weights_hash(run_dir, STEPS) == weights_hash(uninterrupted, STEPS)
    assert measured(run_dir) == measured(uninterrupted)


def where(run: Run) -> dict[str, list[int]]:
    """How many learners and engines of a run there are on each node that is up."""
    up = [name for name, host in run.slurm.hosts.items() if host.is_up]
    return {node: [len(run.actors(node, kind)) for kind in (LEARNER, ENGINE)] for node in up}


def test_jobs_side_by_side_and_through_every_trouble_are_the_run_on_one_machine(
    slurm: SlurmCluster, uninterrupted: Path, tmp_path: Path
):
    undisturbed = Run(slurm, tmp_path / "undisturbed")
    troubled = Run(slurm, tmp_path / "troubled")

    with contextlib.ExitStack() as standing:
        with undisturbed.held("n1"):
            standing.enter_context(troubled.held("n2"))
            assert where(undisturbed) == where(troubled) == {"n1": [1, 1], "n2": [1, 1]}
        # The one goes on and ends while the other has processes, ports and shared memory on the same nodes.
        undisturbed.wait_for("COMPLETED")
        assert_same(undisturbed.run_dir, uninterrupted)
        troubled.come_to_its_time_limit()
        troubled.wait_until_told()
    troubled.start_again()

    with troubled.held("n1"):
        slurm.kill_host("n2")
    troubled.wait_until(lambda: where(troubled) == {"n1": [2, 2]}, "run on n1 alone")
    with troubled.held("n1"):
        slurm.wait_for_node("n2", "DOWN+NOT_RESPONDING")
        slurm.start_host("n2")
        slurm.wait_for_node("n2", "IDLE")
        urgent = slurm.submit("true", "--nodes=2", "--exclusive", "--partition=high")
        troubled.wait_until_told()
    slurm.wait_for(urgent, "COMPLETED")
    troubled.start_again()

    with troubled.held("n2"):
        assert where(troubled) == {"n1": [1, 1], "n2": [1, 1]}
    assert troubled.wait_for("COMPLETED")["Restarts"] == "2"
    assert_same(troubled.run_dir, uninterrupted)
    assert len(faults(troubled.run_dir)) == 1
    slurm.wait_until_clean()


def test_a_cancelled_job_leaves_a_checkpoint_and_nothing_else(slurm: SlurmCluster, tmp_path: Path):
    run = Run(slurm, tmp_path / "cancelled", "steps=500")
    run.wait_for_step(3)
    slurm.run("scancel", run.job_id)
    assert run.wait_for("CANCELLED")["Restarts"] == "0"
    slurm.wait_until_clean()
    _, manifest = CheckpointStore(run.run_dir / "checkpoints", keep=2).latest()  # raises if it is damaged
    assert manifest.step >= 2
