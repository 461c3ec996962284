"""The folder of a run has one driver at a time, and keeps the settings of the run that is in it."""

import os

import pytest
from omegaconf import OmegaConf

from delta.errors import ConfigError, StorageError
from launch.run_folder import held, keep_settings
from tests.conftest import files_up_to


def test_a_second_driver_is_refused_and_told_who_is_there(tmp_path):
    with held(tmp_path):
        with pytest.raises(ConfigError, match=rf"in use by another run \(process {os.getpid()} on "), held(tmp_path):
            pytest.fail("two drivers in one folder")
        with pytest.raises(ConfigError, match=f"process {os.getpid()}"), held(tmp_path):
            pytest.fail("the one that was refused let go of the folder")
    with held(tmp_path):
        pass


def test_a_driver_that_was_killed_holds_nothing(tmp_path):
    child = os.fork()
    if child == 0:
        with held(tmp_path):
            os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    with held(tmp_path):
        pass


def test_settings_that_cannot_be_written_leave_those_of_before(tmp_path):
    keep_settings(tmp_path, OmegaConf.create({"steps": 1}))
    with files_up_to(4096), pytest.raises(StorageError, match=r"cannot write .*config\.yaml"):
        keep_settings(tmp_path, OmegaConf.create({"label": "x" * 8192}))
    assert (tmp_path / "config.yaml").read_text() == "steps: 1\n"
