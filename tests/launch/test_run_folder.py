"""The folder of a run has one driver at a time, and keeps the settings of the run that is in it."""

import errno
import fcntl
import os

import pytest
from omegaconf import OmegaConf

from delta.errors import ConfigError, StorageError, TakenOverError
from launch.run_folder import held, keep_settings
from tests.conftest import files_up_to


def hold(run_dir, say=pytest.fail):
    return held(run_dir, say=say)


def test_a_second_driver_is_refused_and_told_who_is_there(tmp_path):
    with hold(tmp_path):
        with pytest.raises(ConfigError, match=rf"in use by another run \(process {os.getpid()} on "), hold(tmp_path):
            pytest.fail("two drivers in one folder")
        with pytest.raises(ConfigError, match=f"process {os.getpid()}"), hold(tmp_path):
            pytest.fail("the one that was refused let go of the folder")
    with hold(tmp_path):
        pass


def test_a_driver_that_was_killed_holds_nothing(tmp_path):
    child = os.fork()
    if child == 0:
        with hold(tmp_path):
            os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    with hold(tmp_path):
        pass


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    said = []
    with hold(tmp_path, said.append):
        assert said == [f"{tmp_path} cannot be locked (Function not implemented): make sure that no other run uses it."]


def test_where_locks_do_not_reach_the_older_driver_hears_of_the_newer(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    with held(tmp_path, say=str) as older:
        older.check()
        with held(tmp_path, say=str) as newer:
            newer.check()
            with pytest.raises(TakenOverError, match=rf"another driver by now \({newer.name}\); expected {older.name}"):
                older.check()


def test_a_driver_without_room_for_its_name_is_not_taken_for_another(tmp_path, monkeypatch):
    with files_up_to(0), hold(tmp_path) as held_folder:
        held_folder.check()


def test_settings_that_cannot_be_written_leave_those_of_before(tmp_path):
    keep_settings(tmp_path, OmegaConf.create({"steps": 1}))
    with files_up_to(4096), pytest.raises(StorageError, match=r"cannot write .*config\.yaml"):
        keep_settings(tmp_path, OmegaConf.create({"label": "x" * 8192}))
    assert (tmp_path / "config.yaml").read_text() == "steps: 1\n"
