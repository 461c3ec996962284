"""A checkpoint is complete or not there; a damaged or foreign one is refused with the way out."""

import json
from pathlib import Path

import pytest

from delta.errors import CheckpointError, StorageError
from workers.controller.checkpoints import FORMAT, CheckpointStore, Manifest, sizes


def write(store: CheckpointStore, step: int) -> Path:
    draft = store.begin(step)
    (draft / "learner").mkdir()
    (draft / "learner" / "shard.pt").write_bytes(b"x" * 100)
    manifest = Manifest(
        format=FORMAT,
        step=step,
        prompts=8 * step,
        trajectory={"seed": 1},
        weights_hash="h",
        versions={},
        files=sizes(draft),
    )
    return store.publish(draft, manifest)


def test_the_newest_is_found_and_the_oldest_are_deleted(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    assert store.latest() is None
    for step in (2, 4, 10):
        write(store, step)
    folder, manifest = store.latest()
    assert manifest.step == 10
    assert manifest.trajectory == {"seed": 1}
    assert folder.name == "step-000010"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000004", "step-000010"]


def test_a_half_written_one_is_never_found_and_is_cleaned_up(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    write(store, 2)
    (store.begin(4) / "half").write_bytes(b"x")
    assert store.latest()[1].step == 2
    again = CheckpointStore(tmp_path, keep=2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000002"]
    assert again.latest()[1].step == 2


def test_the_same_step_can_be_written_again(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    write(store, 2)
    write(store, 2)
    assert store.latest()[1].step == 2


@pytest.mark.parametrize("damage", ["truncate", "delete", "manifest", "format", "foreign"])
def test_a_bad_one_is_refused_and_the_one_before_named(tmp_path, damage):
    store = CheckpointStore(tmp_path, keep=3)
    write(store, 2)
    folder = write(store, 4)
    manifest = folder / "manifest.json"
    if damage == "truncate":
        (folder / "learner" / "shard.pt").write_bytes(b"x" * 99)
    elif damage == "delete":
        (folder / "learner" / "shard.pt").unlink()
    elif damage == "manifest":
        manifest.write_text("{")
    elif damage == "format":
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": FORMAT + 1}))
    else:
        manifest.write_text('{"format": 1, "epoch": 3}')
    with pytest.raises(CheckpointError, match="step-000004") as error:
        store.latest()
    assert "step-000002" in str(error.value)


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    store = CheckpointStore(tmp_path / "file", keep=1)
    with pytest.raises(StorageError, match="cannot write a checkpoint"):
        store.begin(1)
