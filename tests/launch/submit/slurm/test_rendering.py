"""The batch script of a few plans, as recorded.

A commit that changes a recording says why in its message. `python -m tests.launch.submit.slurm.test_rendering --write`
records them anew.
"""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launch.submit.plan import NodeShare, Plan, Resources, Restarts
from launch.submit.slurm.backend import SCRIPT, SlurmBackend
from launch.submit.slurm.config import ContainerRuntime, SlurmConfig

FOLDER = Path(__file__).parent / "golden"


def plan(**settings: object) -> Plan:
    known = {
        "name": "delta-runs-a-3fa9c2",
        "run_dir": Path("/shared/runs/a"),
        "command": ("delta-train", "cluster=slurm", "run_dir=/shared/runs/a", "faults.grace_s=120", "resume=auto"),
        "resources": Resources(nodes=1, cpus=2, gpus=0, memory_mib=0, object_store_mib=256),
        "placement": (NodeShare(learner_ranks=(0, 1), engines=(0, 1)),),
        "environment": {"DELTA_CACHE": "/shared/runs/.delta-cache", "TOKENIZERS_PARALLELISM": "false"},
        "image": "",
        "restarts": Restarts(requeue=True, max_requeues=20, grace_s=120),
        "ready_timeout_s": 600.0,
        "work_dir": Path("/home/me/delta"),
    }
    return Plan(**{**known, **settings})


FOUR_NODES = {
    "resources": Resources(nodes=4, cpus=96, gpus=8, memory_mib=960_000, object_store_mib=65_536),
    "placement": tuple(NodeShare(learner_ranks=tuple(range(4 * n, 4 * n + 4)), engines=(n,)) for n in range(4)),
    "inputs": (Path("/shared/models/qwen3"), Path("/shared/data/deepmath.jsonl")),
}
SUBMISSIONS = {
    "one_node": (SlurmConfig(python="/opt/delta/bin/python"), plan()),
    "four_nodes_pyxis": (
        SlurmConfig(
            partition="gpu",
            account="lab",
            qos="long",
            time_limit="1-00:00:00",
            gpu_type="h100",
            exclude="gpu[13-14]",
            options=["--mail-type=END"],
            mounts=["/local/nvme:/scratch"],
            secrets_file="/home/me/.delta-secrets",
            network="ib0",
        ),
        plan(**FOUR_NODES, image="registry/delta:0.2"),
    ),
    "two_nodes_apptainer": (
        SlurmConfig(container=ContainerRuntime.apptainer, setup=["module load apptainer"], no_kill=False),
        plan(
            resources=Resources(nodes=2, cpus=16, gpus=1, memory_mib=0, object_store_mib=1024),
            image="/shared/images/delta.sif",
            environment={"DELTA_CACHE": "/shared/cache", "NOTE": 'it\'s "$HOME"'},
            restarts=Restarts(requeue=False, max_requeues=0, grace_s=120),
        ),
    ),
}


def rendered(name: str) -> str:
    config, what = SUBMISSIONS[name]
    return SlurmBackend(config).render(what)[SCRIPT]


@pytest.mark.parametrize("name", SUBMISSIONS)
def test_the_script_is_as_recorded(name: str):
    assert rendered(name) == (FOLDER / f"{name}.sbatch").read_text(), "see the module's docstring"


@pytest.mark.parametrize("name", SUBMISSIONS)
def test_bash_can_read_the_script(name: str):
    subprocess.run(["bash", "-n"], input=rendered(name), text=True, check=True)


def test_values_reach_the_script_as_they_are():
    text = rendered("two_nodes_apptainer")
    line = next(line for line in text.splitlines() if line.startswith("export NOTE="))
    said = subprocess.run(["bash", "-c", f"{line}; printenv NOTE"], capture_output=True, text=True, check=True)
    assert said.stdout == 'it\'s "$HOME"\n'


def test_nothing_is_requeued_that_should_not_be():
    assert "scontrol requeue" not in rendered("two_nodes_apptainer")
    assert "scontrol requeue" in rendered("one_node")


@pytest.mark.parametrize(("try_", "requeued", "code"), [(0, False, 2), (1, True, 75), (20, False, 75)])
def test_a_folder_that_a_node_does_not_see_ends_the_job_for_good_only_at_its_first_start(
    tmp_path: Path, try_: int, requeued: bool, code: int
):
    config, what = SUBMISSIONS["four_nodes_pyxis"]
    script = SlurmBackend(dataclasses.replace(config, secrets_file="")).render(
        dataclasses.replace(what, run_dir=tmp_path / "run")
    )[SCRIPT]
    commands = {"srun": "exit 1", "squeue": "echo RUNNING None", "scontrol": f'echo "$@" >> {tmp_path}/asked'}
    for name, line in commands.items():  # a Slurm of which the nodes see nothing
        (tmp_path / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"SLURM_RESTART_COUNT": str(try_), "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-4]"}
    ended = subprocess.run(
        ["bash"],
        input=script,
        text=True,
        env={**environment, "SLURMD_NODENAME": "n1", "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        timeout=60,
    )
    assert ended.returncode == code
    assert ("requeue 7" in (tmp_path / "asked").read_text()) == requeued


if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    for submission in SUBMISSIONS:
        (FOLDER / f"{submission}.sbatch").write_text(rendered(submission))
