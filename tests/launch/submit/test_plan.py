"""A plan says everything about a submission, and nothing in it depends on where or when it is read again."""

import dataclasses
import shutil
import subprocess
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from delta.errors import ConfigError
from launch.overrides import CONF
from launch.schema import register
from launch.submit.image import perhaps_missing
from launch.submit.plan import NodeShare, Plan, idle_gpus, job_name, plan_for, unseen
from workers.controller.config import TrainConfig

register()
SLURM = "cluster=slurm"


def composed(*overrides: str) -> TrainConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_object(compose("train", overrides=list(overrides)))


def planned(*overrides: str, work_dir: Path, is_sweep: bool = False) -> Plan:
    return plan_for(composed(*overrides), overrides, work_dir=work_dir, is_sweep=is_sweep)


def test_the_command_is_that_of_the_submission_with_everything_settled(tmp_path):
    (tmp_path / "problems.jsonl").touch()
    said = (
        SLURM,
        "nodes=2",
        "data=jsonl",
        "data.path=problems.jsonl",
        "dry_run=true",
        "resume=never",
        "run_dir=runs/a",
    )
    plan = planned(*said, work_dir=tmp_path)
    assert plan.command == (
        "delta-train",
        *(SLURM, "nodes=2", "data=jsonl"),
        f"data.path={tmp_path}/problems.jsonl",
        f"run_dir={tmp_path}/runs/a",
        "faults.grace_s=120",
        "resume=auto",
    )
    assert plan.run_dir == tmp_path / "runs" / "a"
    assert plan.job_dir == tmp_path / "runs" / "a" / "job"
    assert plan.inputs == (tmp_path / "problems.jsonl",)
    again = composed(*plan.command[1:])
    as_submitted = dataclasses.replace(
        composed(*said),
        dry_run=False,
        resume=again.resume,
        run_dir=str(plan.run_dir),
        faults=again.faults,
        data=again.data,
    )
    assert again == as_submitted


def test_the_time_in_the_default_run_folder_is_that_of_the_submission(tmp_path):
    config = composed(SLURM)
    plan = plan_for(config, [SLURM], work_dir=tmp_path)
    assert plan.command[-3] == f"run_dir={tmp_path}/{config.run_dir}"
    assert "${" not in " ".join(plan.command)


def test_paths_with_difficult_names_survive_the_command_line(tmp_path):
    odd = tmp_path / "a b's=(1,2)"
    odd.mkdir()
    quoted = str(odd).replace("'", "\\'")
    plan = planned(SLURM, "model=pretrained", f"model.path='{quoted}'", "run_dir=x", work_dir=tmp_path)
    assert composed(*plan.command[1:]).model.path == str(odd)


def test_a_name_on_the_hub_stays_one(tmp_path):
    plan = planned(SLURM, "model=pretrained", "model.path=Qwen/Qwen3-8B", "run_dir=x", work_dir=tmp_path)
    assert "model.path=Qwen/Qwen3-8B" in plan.command
    assert plan.inputs == ()


def test_only_absolute_paths_can_be_on_the_storage_of_another_cluster(tmp_path):
    overrides = ("model=pretrained", "model.path=Qwen/Qwen3-8B", "data=jsonl", "data.path=/volume/problems.jsonl")
    assert unseen(composed(*overrides)) == ["data.path=/volume/problems.jsonl"]
    assert unseen(composed(f"resume_from={tmp_path}")) == []
    assert unseen(composed("data=deepmath", "data.held_out_path=/volume/aime24.jsonl")) == [
        "data.held_out_path=/volume/aime24.jsonl"
    ]


def test_a_member_of_a_sweep_does_not_sweep_again(tmp_path):
    said = (SLURM, "seed=2", "algorithm=dapo", "experiment=compare", "hydra/launcher=basic", "hydra.verbose=true")
    plan = planned(*said, work_dir=tmp_path, is_sweep=True)
    assert [word for word in plan.command if word.startswith("hydra")] == ["hydra.mode=RUN"]


def test_who_runs_where_is_decided_by_the_placement(tmp_path):
    overrides = (SLURM, "nodes=2", "cluster.num_gpus=3", "learner.num_ranks=4", "rollout.num_workers=2", "run_dir=x")
    plan = planned(*overrides, work_dir=tmp_path)
    assert plan.placement == (
        NodeShare(learner_ranks=(0, 1), engines=(0,)),
        NodeShare(learner_ranks=(2, 3), engines=(1,)),
    )
    assert (plan.resources.nodes, plan.resources.gpus) == (2, 3)
    with pytest.raises(ConfigError, match=r"learner.num_ranks=5 .* expected at most 4"):
        planned(*overrides[:3], "learner.num_ranks=5", "rollout.num_workers=2", work_dir=tmp_path)


def test_names_belong_to_one_run_folder_and_fit_every_cluster():
    names = [
        job_name(Path("/s") / path) for path in ("a/dapo/seed1", "b/dapo/seed1", f"{'x' * 90}/Über_1", "2026-11/%")
    ]
    assert len(set(names)) == len(names)
    for name in names:
        assert len(name) <= 45
        assert name.startswith("delta-")
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert names[0].startswith("delta-dapo-seed1-")
    assert job_name(Path("/s/a/dapo/seed1")) == names[0]


def test_the_grace_is_the_clusters(tmp_path):
    plan = planned(SLURM, "cluster.grace_s=300", "cluster.max_requeues=0", work_dir=tmp_path)
    assert "faults.grace_s=300" in plan.command
    assert (plan.restarts.grace_s, plan.restarts.requeue) == (300, False)
    with pytest.raises(ConfigError, match=r"expected cluster.grace_s"):
        planned(SLURM, "faults.grace_s=10", work_dir=tmp_path)


def test_a_job_that_is_not_to_be_requeued_is_not(tmp_path):
    plan = planned(SLURM, "cluster.requeue=false", work_dir=tmp_path)
    assert (plan.restarts.requeue, plan.restarts.max_requeues) == (False, 0)


def test_objects_that_leave_no_memory_are_refused(tmp_path):
    planned(SLURM, "cluster.host_memory_gib=2", "cluster.object_store_mib=2047", work_dir=tmp_path)
    with pytest.raises(ConfigError, match=r"object_store_mib=2048 .*host_memory_gib=2: expected a part of it"):
        planned(SLURM, "cluster.host_memory_gib=2", "cluster.object_store_mib=2048", work_dir=tmp_path)


def test_paths_keep_the_names_that_other_machines_know(tmp_path):
    (tmp_path / "disk7").mkdir()
    (tmp_path / "disk7" / "problems.jsonl").touch()
    (tmp_path / "shared").symlink_to("disk7")
    plan = planned(SLURM, "data=jsonl", "data.path=./problems.jsonl", "run_dir=x", work_dir=tmp_path / "shared")
    assert plan.work_dir == tmp_path / "shared"
    assert (plan.run_dir, *plan.inputs) == (plan.work_dir / "x", plan.work_dir / "problems.jsonl")


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_chosen_files_that_an_image_may_lack_are_known(tmp_path):
    assert perhaps_missing({"cluster": "ours"}, conf=tmp_path) == [], "no checkout: nothing can be said"
    for command in ("init -q", "add .", "-c user.name=a -c user.email=a@b commit -qm a"):
        (tmp_path / "cluster").mkdir(exist_ok=True)
        (tmp_path / "cluster" / "slurm.yaml").touch()
        (tmp_path / "cluster" / "local.yaml").touch()
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    (tmp_path / "cluster" / "ours.yaml").touch()
    (tmp_path / "cluster" / "local.yaml").write_text("num_cpus: 3")
    found = [perhaps_missing({"cluster": option}, conf=tmp_path) for option in ("slurm", "ours", "local")]
    assert found == [[], ["cluster/ours.yaml"], ["cluster/local.yaml"]]


@pytest.mark.parametrize("name", ["WANDB_API_KEY", "HF_TOKEN", "MY_SECRET_NUMBER", "db_password"])
def test_a_secret_is_not_written_down(name):
    with pytest.raises(ValueError, match=f"{name}.*by reference"):
        composed(SLURM, f"+cluster.environment.{name}=x")


def test_the_environment_is_explicit_and_the_user_has_the_last_word(tmp_path):
    said = (SLURM, "cluster.lost_after_s=9", "run_dir=runs/a", "+cluster.environment.DELTA_CACHE=/shared/cache")
    environment = planned(*said, work_dir=tmp_path).environment
    assert environment["DELTA_CACHE"] == "/shared/cache"
    assert environment["RAY_health_check_period_ms"] == "1000"  # three times one second and two: nine
    assert environment["RAY_health_check_timeout_ms"] == "2000"
    assert planned(*said[:3], work_dir=tmp_path).environment["DELTA_CACHE"] == f"{tmp_path}/runs/.delta-cache"


def test_gpus_without_work_are_told():
    paper = ("experiment=qwen3_8b_deepmath", SLURM)
    assert idle_gpus(composed(*paper)) is None
    said = idle_gpus(composed(*paper, "nodes=4"))
    assert said.startswith("24 of 32 GPUs have nothing to do: raise learner.num_ranks=4 or rollout.num_workers=4")
    assert idle_gpus(composed("experiment=laptop", SLURM)) is None
