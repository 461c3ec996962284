"""Files that cannot be written or read, and those that are there as a whole or not at all."""

import pytest
import torch
from safetensors.torch import save_file

from delta.errors import StorageError
from tests.conftest import files_up_to
from workers.files import FileDigest, describe_difference, replace_folder, storage_errors, write_whole


def test_what_cannot_be_written_is_the_users_to_mend(tmp_path):
    with files_up_to(4096):
        with pytest.raises(StorageError, match=r"^learner rank 3: .*too large"), storage_errors("learner rank 3"):
            save_file({"weight": torch.zeros(2048)}, tmp_path / "weights")
        remedied = storage_errors("cannot write it", remedy="Free space.")
        with pytest.raises(StorageError, match=r"^cannot write it: .*too large\. Free space\.$"), remedied:
            (tmp_path / "text").write_bytes(bytes(8192))


def test_a_file_that_cannot_be_replaced_stays_as_it_was(tmp_path):
    path = tmp_path / "config.yaml"
    write_whole(path, "old")
    with files_up_to(4096), pytest.raises(OSError, match="too large"):
        write_whole(path, "x" * 8192)
    assert path.read_text() == "old"
    write_whole(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_takes_the_place_of_another_whole(tmp_path):
    final = tmp_path / "export"
    for content in ("old", "new"):
        draft = tmp_path / "draft"
        draft.mkdir()
        (draft / content).touch()
        replace_folder(draft, final)
    assert [path.name for path in final.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [final]


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    """As on a disk that fails: nothing is mapped at the first address of a process."""
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "weights").symlink_to("/proc/self/mem")
    expected = {"part/weights": FileDigest(size=0, sha256="")}
    assert describe_difference(tmp_path, expected, checksums=True) == (
        "part/weights cannot be read (Input/output error)"
    )
    assert describe_difference(tmp_path, expected, checksums=False) is None
