"""Runs that are submitted to a real Slurm: across two nodes, through everything that befalls a job, the same run."""

from pathlib import Path

import pytest

from tests.integration.runs import STEPS, course, faults, measured, weights_hash
from tests.slurm.cluster import SlurmCluster
from tests.slurm.jobs import Run
from workers.controller.checkpoints import CheckpointStore

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

ACTORS = ("LearnerWorker", "RolloutWorker")
ONE_OF_EACH = {"n1": [1, 1], "n2": [1, 1]}


def assert_same(run_dir: Path, uninterrupted: Path) -> None:
    assert course(run_dir) == course(uninterrupted)
    assert weights_hash(run_dir, STEPS) == weights_hash(uninterrupted, STEPS)
    assert measured(run_dir) == measured(uninterrupted)


def test_runs_side_by_side_through_time_limit_and_preemption_are_the_run_on_one_machine(
    slurm: SlurmCluster, uninterrupted: Path, tmp_path: Path
):
    undisturbed = Run(slurm, tmp_path / "undisturbed")
    troubled = Run(slurm, tmp_path / "troubled")
    with troubled.held("n2"):
        with undisturbed.held("n1"):
            for run in (undisturbed, troubled):
                assert {node: [len(run.actors(node, kind)) for kind in ACTORS] for node in slurm.hosts} == ONE_OF_EACH
        # The other one goes on and ends while this one has processes, ports and shared memory on the same nodes.
        undisturbed.wait_for("COMPLETED")
        assert_same(undisturbed.run_dir, uninterrupted)
        troubled.come_to_its_time_limit()
        troubled.wait_until_told()
    slurm.start_now(troubled.job_id)
    before = len(troubled.rows())
    assert before < STEPS

    troubled.wait_for_step(before + 1)
    with troubled.held("n1"):
        urgent = slurm.submit("true", "--nodes=2", "--exclusive", "--partition=high")
        troubled.wait_until_told()
    slurm.wait_for(urgent, "COMPLETED")
    slurm.start_now(troubled.job_id)
    assert troubled.wait_for("COMPLETED")["Restarts"] == "2"
    assert_same(troubled.run_dir, uninterrupted)
    assert faults(troubled.run_dir) == []
    slurm.wait_until_clean()


def test_a_cancelled_run_leaves_a_checkpoint_and_nothing_else(slurm: SlurmCluster, tmp_path: Path):
    run = Run(slurm, tmp_path / "cancelled", "steps=500")
    run.wait_for_step(3)
    slurm.run("scancel", run.job_id)
    run.wait_for("CANCELLED")
    slurm.wait_until_clean()
    _, manifest = CheckpointStore(run.run_dir / "checkpoints", keep=2).latest()  # raises if it is damaged
    assert manifest.step >= 2
    assert slurm.job(run.job_id)["Restarts"] == "0"


def test_a_run_outlives_a_node(slurm: SlurmCluster, uninterrupted: Path, tmp_path: Path):
    run = Run(slurm, tmp_path / "bereaved")
    run.wait_for_step(2)
    with run.held("n1"):
        slurm.kill_host("n2")
    run.wait_until(lambda: bool(faults(run.run_dir)), "fault on record")
    run.wait_for("COMPLETED")
    slurm.start_host("n2")
    slurm.wait_for_node("n2", "IDLE")
    assert_same(run.run_dir, uninterrupted)
    assert [fault["cause"] for fault in faults(run.run_dir)]
    slurm.wait_until_clean()
