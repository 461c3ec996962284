"""What a node must see: the very run folder, not another of the same name, and the model."""

import os

import pytest

from delta.errors import StorageError
from workers.cluster.sight import canary_in, unseen


def test_the_same_folder_is_known_by_its_canary_and_nothing_stays(tmp_path):
    with canary_in(tmp_path) as canary:
        assert unseen(canary, [tmp_path], 0) == ()
    assert list(tmp_path.iterdir()) == []


def test_another_folder_under_the_same_path_is_not_the_same(tmp_path):
    with canary_in(tmp_path) as canary:
        canary.file.rename(tmp_path / "elsewhere")
        assert unseen(canary, [], 0.1) == (f"{tmp_path} is a folder of this node's own",)
        canary.file.write_text("another")
        assert unseen(canary, [], 0) == (f"{tmp_path} is another folder here",)


def test_what_is_missing_is_named(tmp_path):
    with canary_in(tmp_path) as canary:
        assert unseen(canary, [tmp_path / "model" / "config.json"], 0) == (
            f"{tmp_path / 'model' / 'config.json'} is not there",
        )


def test_what_cannot_be_looked_at_is_named(tmp_path):
    path = tmp_path / ("n" * 300)  # as root may look everywhere: a name that no file system takes
    with canary_in(tmp_path) as canary:
        assert "cannot be looked at (File name too long)" in unseen(canary, [path], 0)[0]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a disk that is full")
def test_a_full_disk_is_a_storage_error(tmp_path, monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda length: "a")
    (tmp_path / ".canary-a").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=f"cannot write into {tmp_path}.*No space left"), canary_in(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_no_run_folder(tmp_path):
    with canary_in(tmp_path) as canary:
        tmp_path.chmod(0o500)
        assert "cannot be read and written" in unseen(canary, [], 0)[0]
        tmp_path.chmod(0o700)
