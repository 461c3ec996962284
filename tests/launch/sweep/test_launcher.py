"""Sweeps that end before a run begins: composed, checked, refused, or complete already."""

from pathlib import Path

import pytest

from delta.errors import CheckpointError
from launch.command import EXIT_USER_ERROR
from launch.sweep.arguments import detached, with_cluster
from launch.sweep.launcher import Planned, check_course
from launch.sweep.record import Member, read_sweep
from tests.conftest import TINY, Train
from tests.launch.sweep.made_runs import make_run
from tests.launch.test_conf import composed
from workers.controller.checkpoints import CheckpointStore, Manifest
from workers.controller.trajectory import trajectory_of


def sweep(train: Train, folder: Path, *overrides: str):
    return train("--multirun", *TINY, f"sweep={folder}", *overrides, timeout_s=120)


def begun(folder: Path) -> list[Path]:
    names = ("output.log", "slurm.log", "sweep.json", ".driver")
    return [path for path in folder.rglob("*") if path.name in names]


def test_a_dry_run_looks_at_every_member_and_starts_none(train: Train, tmp_path):
    said = sweep(train, tmp_path / "a", "rollout.max_model_len=512,4096", "seed=1,2", "dry_run=true")
    assert said.returncode == EXIT_USER_ERROR
    assert said.stdout.count(": in order") == 2
    refused = "rollout.max_model_len-4096+seed-2: rollout.max_model_len=4096 is longer than the model's context"
    assert refused in said.stdout
    assert "dry run: 2 of 4 members cannot run; nothing was started." in said.stdout
    said = sweep(train, tmp_path / "b", "seed=1,2", "dry_run=true")
    assert (said.returncode, "all 2 members are in order" in said.stdout) == (0, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["rollout.prompts_per_step=8,31"], ["rollout.prompts_per_step-31: ", "prompts_per_step=31 does not divide"]),
        (["seed=1,2", "run_dir=runs/one"], ["seed-1 and seed-2 have the same run_dir", "depend on what is swept"]),
        (["seed=1,2", "hydra.sweeper.max_batch_size=1"], ["max_batch_size", "hydra.launcher.at_once"]),
        (["experiment=compare", "+hydra.sweeper.params.sede='1,2'"], ["sede", "Did you mean seed"]),
        (["seed=1,2", "cluster=slurm"], ["seed-1 would run here", "add hydra/launcher=slurm"]),
        (["seed=1,2", "cluster=kuberay"], ["seed-1 would run here", "add hydra/launcher=kuberay"]),
        (["seed=1,1"], ["seed-1 and seed-1 have the same run_dir"]),
        (["seed=1,2", "hydra/launcher=slurm", "cluster=local"], ["cluster=local", "leave one of the two out"]),
        (["seed=1,2", "hydra/launcher=slurm", "hydra.launcher.at_once=-1"], ["at_once=-1", "expected 0 or more"]),
        (["seed=1,2", "hydra/launcher=kuberay", "hydra.launcher.at_once=2"], ["at_once=2", "wait=true"]),
        (["seed=1,2", "hydra/launcher=slrum"], ["slrum", "local", "slurm"]),
    ],
    ids=lambda value: " ".join(value) if "=" in value[0] else None,
)
def test_what_cannot_work_is_said_before_the_first_member_begins(train: Train, tmp_path, overrides, expected):
    said = sweep(train, tmp_path / "sweep", *overrides)
    assert said.returncode == EXIT_USER_ERROR
    for text in expected:
        assert text in said.stderr
    assert "Traceback" not in said.stderr
    assert begun(tmp_path) == []


def test_a_model_without_weights_is_not_sent(train: Train, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    own = ("hydra/launcher=slurm", "cluster.allow_local=true", "model=pretrained", f"model.path={tmp_path}/model")
    said = train("--multirun", "seed=1,2", *own, f"sweep={tmp_path}/sweep")
    assert said.returncode == EXIT_USER_ERROR
    assert "is no model: tokenizer_config.json, *.safetensors not found" in said.stderr


def test_a_folder_that_cannot_be_written_is_named(train: Train, tmp_path):
    (tmp_path / "file").touch()
    said = sweep(train, tmp_path / "file" / "sweep", "seed=1,2")
    assert said.returncode == EXIT_USER_ERROR
    assert f"sweep={tmp_path}/file/sweep cannot be written" in said.stderr


def test_complete_members_are_skipped(train: Train, tmp_path):
    folder = tmp_path / "sweep"
    for seed in (1, 2):
        make_run(folder / f"seed-{seed}", method="delta", seed=seed)
    said = sweep(train, folder, "seed=1,2", "steps=12")
    assert (said.returncode, said.stderr) == (0, "")
    assert "2 members, 2 of them complete" in said.stdout
    record = read_sweep(folder)
    assert [(member.name, member.run_dir) for member in record.members] == [
        (f"seed-{seed}", folder / f"seed-{seed}") for seed in (1, 2)
    ]
    assert "hydra.mode=RUN" in record.members[0].overrides


def test_a_run_folder_that_depends_on_what_is_swept_is_the_users_own(train: Train, tmp_path):
    for seed in (1, 2):
        make_run(tmp_path / f"mine-{seed}", method="delta", seed=seed)
    said = sweep(train, tmp_path / "sweep", "seed=1,2", "steps=12", f"run_dir='{tmp_path}/mine-${{seed}}'")
    assert (said.returncode, said.stderr) == (0, "")
    members = read_sweep(tmp_path / "sweep").members
    assert [member.run_dir for member in members] == [tmp_path / "mine-1", tmp_path / "mine-2"]


def test_a_member_with_a_checkpoint_goes_on_with_its_own_settings_only(tmp_path):
    def planned(*overrides: str) -> Planned:
        config = composed(*overrides)
        return Planned(Member(name="seed-1", choices={}, run_dir=tmp_path, overrides=()), config)

    check_course(planned("steps=5"))  # nothing there yet
    store = CheckpointStore(tmp_path / "checkpoints", keep=1)
    trajectory = {**trajectory_of(planned("steps=5").config, ()), "data_hash": "of some problems"}
    manifest = Manifest(
        step=2, prompts=16, ranks=1, model="", trajectory=trajectory, weights_hash="", versions={}, files={}
    )
    store.publish(store.begin(2), manifest)
    check_course(planned("steps=9", "evaluation.every=1", "label=other", "sweep=elsewhere"))
    with pytest.raises(CheckpointError, match=r"learner\.learning_rate was 0\.0001, is 0\.5"):
        check_course(planned("steps=5", "learner.learning_rate=0.5"))


def test_launcher_and_cluster_need_not_both_be_named():
    assert with_cluster(["-m", "seed=1,2"]) == ["-m", "seed=1,2"]
    assert with_cluster(["hydra/launcher=slurm"]) == ["hydra/launcher=slurm", "cluster=slurm"]
    for settled in (["hydra/launcher=slurm", "cluster=local"], ["hydra/launcher=local"]):
        assert with_cluster(settled) == settled


def test_submitted_sweeps_are_sent_and_left_alone():
    wait = "hydra.launcher.wait=false"
    assert detached(["-m", "cluster=slurm"], lint=False) == ["-m", "cluster=slurm", "hydra/launcher=slurm", wait]
    assert detached(["-m", "cluster=kuberay"], lint=True)[2:] == ["hydra/launcher=kuberay", wait, "dry_run=true"]
    for settled in (["cluster=slurm"], ["-m", "seed=1,2"], ["-m", "cluster=local"]):
        assert detached(settled, lint=False) == settled
