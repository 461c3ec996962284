"""A checkpoint is complete or not there; a damaged or foreign one is refused with the way out."""

import json
from collections import namedtuple
from pathlib import Path

import pytest

from delta.errors import CheckpointError, StorageError, TakenOverError
from workers.controller.checkpoints import FORMAT, CheckpointStore, Manifest, find_checkpoint, read_manifest
from workers.files import digests, files_in
from workers.hold import Hold


def write(store: CheckpointStore, step: int) -> Path:
    draft = store.begin(step, needed=100)
    (draft / "learner").mkdir()
    (draft / "learner" / "shard.safetensors").write_bytes(b"x" * 100)
    manifest = Manifest(
        step=step,
        prompts=8 * step,
        ranks=2,
        model="somewhere",
        trajectory={"seed": 1},
        weights_hash="h",
        versions={},
        files=digests(draft, files_in(draft)),
    )
    return store.publish(draft, manifest)


def rewrite(manifest: Path, **changes) -> None:
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **changes}))


def test_the_newest_is_found_and_the_oldest_are_deleted(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    assert store.latest() is None
    for step in (2, 4, 10):
        write(store, step)
    folder, manifest = store.latest()
    assert manifest.step == 10
    assert manifest.trajectory == {"seed": 1}
    assert manifest.files["learner/shard.safetensors"].size == 100
    assert folder.name == "step-000010"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000004", "step-000010"]


def test_a_half_written_one_is_never_found_and_is_cleaned_up_by_who_writes_here(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    write(store, 2)
    draft = store.begin(4)
    (draft / "half").write_bytes(b"x")
    reader = CheckpointStore(tmp_path, keep=2)
    assert reader.latest()[1].step == 2
    assert draft.exists()
    reader.discard_drafts()
    assert [path.name for path in tmp_path.iterdir()] == ["step-000002"]


def test_every_attempt_has_a_draft_of_its_own(tmp_path):
    """A rank of an older one may live on behind a broken network, and write."""
    store = CheckpointStore(tmp_path, keep=2)
    assert store.begin(4) != store.begin(4)


def test_a_driver_whose_folder_was_taken_over_publishes_nothing_and_clears_nothing_away(tmp_path):
    hold = Hold(tmp_path / ".driver", written=True)
    hold.file.write_text(hold.name)
    store = CheckpointStore(tmp_path / "checkpoints", keep=1, hold=hold)
    write(store, 2)
    drafted = store.begin(3)
    hold.file.write_text("another")
    for work in (lambda: write(store, 4), store.discard_drafts):
        with pytest.raises(TakenOverError, match="belongs to another driver by now \\(another\\)"):
            work()
    assert drafted.exists()
    assert [path.name for path in store.published()] == ["step-000002"]


def test_a_checkpoint_is_never_replaced(tmp_path):
    """Between moving the old one away and the new one in there would be none; `Saver` has no need to."""
    store = CheckpointStore(tmp_path, keep=2)
    folder = write(store, 2)
    before = (folder / "manifest.json").stat().st_ino
    with pytest.raises(StorageError, match="not empty"):
        write(store, 2)
    assert (folder / "manifest.json").stat().st_ino == before
    assert store.latest()[1].step == 2


def truncate(folder: Path) -> None:
    (folder / "learner" / "shard.safetensors").write_bytes(b"x" * 99)


def flip(folder: Path) -> None:
    (folder / "learner" / "shard.safetensors").write_bytes(b"x" * 50 + b"y" + b"x" * 49)


DAMAGES = {
    "truncated": (truncate, "shard.safetensors has 99 bytes, 100 were written"),
    "bit flip": (flip, "shard.safetensors was changed after it was written"),
    "missing file": (lambda folder: (folder / "learner" / "shard.safetensors").unlink(), "is missing"),
    "half a manifest": (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json cannot be read"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "is no checkpoint: it has no manifest.json"),
    "changed setting": (
        lambda folder: rewrite(folder / "manifest.json", trajectory={"seed": 2}),
        "manifest.json was changed after it was written",
    ),
    "newer": (
        lambda folder: rewrite(folder / "manifest.json", format=FORMAT + 1),
        f"newer version of this project: it has checkpoint format {FORMAT + 1}, this version reads format {FORMAT}",
    ),
    "older": (lambda folder: rewrite(folder / "manifest.json", format=2), "older version of this project"),
    "foreign": (lambda folder: (folder / "manifest.json").write_text('{"epoch": 3}'), "no checkpoint of this project"),
    "foreign with a format": (
        lambda folder: rewrite(folder / "manifest.json", project="other"),
        "its manifest is of 'other'",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_one_is_refused_and_the_newest_whole_one_offered(tmp_path, damage):
    inflict, seen = DAMAGES[damage]
    store = CheckpointStore(tmp_path, keep=4)
    for step in (2, 4, 6):
        write(store, step)
    truncate(tmp_path / "step-000004")
    inflict(tmp_path / "step-000006")
    with pytest.raises(CheckpointError, match="step-000006") as error:
        store.latest()
    assert seen in str(error.value)
    assert f"{tmp_path / 'step-000002'}: add resume=last_good" in str(error.value)

    notes = []
    folder, manifest = store.last_good(say=notes.append)
    assert (folder, manifest.step) == (tmp_path / "step-000002", 2)
    assert len(notes) == 2
    assert seen in notes[0]
    assert store.latest()[1].step == 2
    assert (tmp_path / "damaged-step-000006").is_dir()
    assert store.last_good(say=notes.append)[0] == folder  # the same command again goes on, not back
    assert len(notes) == 2
    assert write(store, 4) == store.latest()[0]


def test_without_reading_only_missing_and_cut_files_are_found(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    folder = write(store, 2)
    flip(folder)
    assert store.latest(checksums=False)[1].step == 2
    truncate(folder)
    with pytest.raises(CheckpointError, match="99 bytes"):
        store.latest(checksums=False)


def test_where_none_is_whole_nothing_is_set_aside(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    assert store.last_good(say=pytest.fail) is None
    truncate(write(store, 2))
    for attempt in (store.latest, lambda: store.last_good(say=pytest.fail)):
        with pytest.raises(CheckpointError, match="No whole checkpoint is before it"):
            attempt()
    assert (tmp_path / "step-000002").is_dir()


def test_a_checkpoint_is_found_by_itself_or_by_its_run(tmp_path):
    folder = write(CheckpointStore(tmp_path / "checkpoints", keep=2), 2)
    assert find_checkpoint(folder) == find_checkpoint(tmp_path) == folder
    assert read_manifest(folder).step == 2
    with pytest.raises(CheckpointError, match="neither a checkpoint"):
        find_checkpoint(tmp_path / "nowhere")


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    store = CheckpointStore(tmp_path / "file", keep=1)
    with pytest.raises(StorageError, match="cannot write a checkpoint"):
        store.begin(1)


def test_a_full_disk_is_found_before_writing_and_the_last_complete_one_named(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, keep=1)
    write(store, 2)
    usage = namedtuple("usage", "free")(3 * 2**20)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    store.begin(3, needed=2**20)
    with pytest.raises(StorageError, match=r"it takes 4.0 MiB, and 3.0 MiB are free.*step-000002"):
        store.begin(4, needed=4 * 2**20)
    assert not list(tmp_path.glob(".writing-000004*"))
