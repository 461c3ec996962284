"""A resumed run must have the settings of its checkpoint, except those that do not decide its course."""

from dataclasses import replace
from pathlib import Path

import pytest

from delta.data.arithmetic import ArithmeticConfig
from delta.errors import CheckpointError
from tests.factories import make_prompt
from workers.controller.config import TrainConfig
from workers.controller.trajectory import check_same_trajectory, trajectory_of
from workers.learner.config import LearnerConfig
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
