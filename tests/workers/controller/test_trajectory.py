"""A resumed run must have the settings of its checkpoint, except those that do not decide its course."""

from dataclasses import replace
from pathlib import Path

import pytest

from delta.data.arithmetic import ArithmeticConfig
from delta.errors import CheckpointError
from tests.factories import make_prompt
from workers.controller.config import TrainConfig
from workers.controller.trajectory import changed_versions, check_same_trajectory, trajectory_of, versions
from workers.learner.config import LearnerConfig
from workers.verifier.code import CodeConfig
from workers.verifier.config import PoolConfig, RemoteConfig
from workers.warm_start.config import WarmStartModelConfig


def config(**changes) -> TrainConfig:
    return replace(TrainConfig(model=WarmStartModelConfig(), data=ArithmeticConfig()), **changes)


def test_free_settings_may_change():
    prompts = [make_prompt()]
    then = trajectory_of(config(steps=10, run_dir="a"), prompts)
    now = trajectory_of(config(steps=20, run_dir="b", learner=LearnerConfig(threads_per_rank=4)), prompts)
    check_same_trajectory(now, then, folder=Path("step-000010"))


def test_others_may_not_and_are_named():
    then = trajectory_of(config(), [make_prompt()])
    now = trajectory_of(config(learner=LearnerConfig(learning_rate=1.0), seed=2), [make_prompt()])
    with pytest.raises(CheckpointError, match=r"learner.learning_rate was 0.0001, is 1.0; seed was 1, is 2"):
        check_same_trajectory(now, then, folder=Path("step-000010"))


def test_other_problems_are_another_run():
    then = trajectory_of(config(), [make_prompt(answer="1")])
    now = trajectory_of(config(), [make_prompt(answer="2")])
    with pytest.raises(CheckpointError, match="data_hash"):
        check_same_trajectory(now, then, folder=Path("step-000010"))


def test_where_answers_are_scored_may_change_but_not_how():
    def then_and_now(one, other):
        return [trajectory_of(config(verifier=verifier), [make_prompt()]) for verifier in (other, one)]

    for one in (PoolConfig(num_workers=3, timeout_s=20.0), RemoteConfig(url="http://127.0.0.1:1")):
        check_same_trajectory(*then_and_now(one, PoolConfig()), folder=Path("step-000010"))
    for one, name in (
        (PoolConfig(require_mark=True), "require_mark"),
        (PoolConfig(max_response_chars=10), "max_response_chars"),
        (PoolConfig(code=CodeConfig(memory_mib=64)), "code.memory_mib"),
        (RemoteConfig(timeout_is_wrong=True), "timeout_is_wrong"),
    ):
        with pytest.raises(CheckpointError, match=f"verifier.{name} was"):
            check_same_trajectory(*then_and_now(one, PoolConfig()), folder=Path("step-000010"))


def test_other_versions_are_named():
    now = versions()
    assert changed_versions(now) == ""
    assert changed_versions({**now, "torch": "1.0"}) == f"torch 1.0 (now {now['torch']})"
    del now["ray"]
    assert changed_versions(now).startswith("ray absent (now ")
