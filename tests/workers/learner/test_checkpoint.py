"""The learner's state through real ZeRO-3 ranks: copied aside, written while training goes on, read by other ranks."""

import asyncio
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from delta.errors import CheckpointError, StorageError
from tests.workers.learner.test_partition_invariance import UPDATES, random_groups, start, stop
from workers.files import digest
from workers.learner.checkpoint import LEARNER, Shards, StagedState, StateIndex, read_index, shard_range, write_state
from workers.learner.config import LearnerConfig


def config(ranks: int, **changes) -> LearnerConfig:
    return LearnerConfig(
        num_ranks=ranks, updates_per_step=UPDATES, tokens_per_micro_batch=200, adam_eps=1e-2, **changes
    )


def learned(metrics) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith("time/")}


@pytest.mark.parametrize(("numel", "ranks"), [(10, 3), (64, 4), (2, 4), (7, 1), (9, 8)])
def test_shards_cover_a_parameter_once_and_are_cut_as_zero3_cuts(numel, ranks):
    size = -(-numel // ranks)
    padded = torch.nn.functional.pad(torch.arange(numel), (0, size * ranks - numel), value=-1)
    for rank in range(ranks):
        start_, end = shard_range(numel, ranks, rank)
        expected = padded[rank * size : (rank + 1) * size]
        assert torch.arange(numel)[start_:end].tolist() == expected[expected >= 0].tolist()


def staged(rank: int, ranks: int, whole: torch.Tensor) -> StagedState:
    first, last = shard_range(whole.numel(), ranks, rank)
    part = whole.flatten()[first:last].clone()
    return StagedState(
        StateIndex(ranks, 3, [{"lr": 0.1}], "float32", {"w": list(whole.shape)}),
        {"w": part},
        {"w.exp_avg": part + 100, "w.exp_avg_sq": part + 200, "rng": torch.full((3,), rank, dtype=torch.uint8)},
    )


def test_any_range_is_read_across_the_files(tmp_path):
    whole = torch.arange(35.0).view(5, 7)
    for rank in range(4):
        written = write_state(staged(rank, 4, whole), tmp_path, rank=rank)
        assert all(digest(tmp_path / name) == seen for name, seen in written.items())
    index = read_index(tmp_path)
    assert (index.optimizer_step, index.shapes) == (3, {"w": [5, 7]})
    shards = Shards(tmp_path, index)
    assert shards.whole_weight("w").equal(whole)
    for first, last in ((0, 1), (8, 10), (5, 33), (34, 35)):
        assert shards.weight("w", first, last).tolist() == list(range(first, last))
        assert shards.moment("w", "exp_avg_sq", first, last).tolist() == list(range(200 + first, 200 + last))
    assert shards.rng(2).tolist() == [2, 2, 2]


def test_a_folder_that_cannot_be_written_or_holds_nothing_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"learner rank 1: .*file"):
        write_state(staged(1, 2, torch.ones(4)), tmp_path / "file" / "below", rank=1)
    with pytest.raises(CheckpointError, match="no learner state in"):
        read_index(tmp_path)


@pytest.mark.ray
@pytest.mark.slow
def test_state_survives_ranks_and_is_that_of_the_moment_it_was_taken(ray_cluster, make_model, tmp_path):
    model_path = make_model()
    groups = random_groups(AutoModelForCausalLM.from_pretrained(model_path).eval())

    async def take(learners, folder: Path) -> None:
        await learners.stage()
        await learners.write(folder)

    async def straight():
        """One update, a checkpoint that is written while the second one runs."""
        learners = await start(model_path, config(2), mismatch_limit=10)
        try:
            await learners.update(groups, policy_version=0)
            before = await learners.weights_hash()
            size = await learners.stage()
            assert size == await learners.checkpoint_bytes() + 2 * torch.get_rng_state().nbytes
            report, files = await asyncio.gather(
                learners.update(groups, policy_version=0), learners.write(tmp_path / "two")
            )
            return before, await learners.weights_hash(), learned(report.metrics), files
        finally:
            stop(learners)

    async def go_on(ranks: int, source: Path, target: Path | None = None, **changes):
        """A fresh group takes the state over, and trains the same batch again."""
        learners = await start(model_path, config(ranks, **changes), mismatch_limit=10)
        try:
            fresh = await learners.weights_hash()
            await learners.load(source)
            loaded = await learners.weights_hash()
            assert fresh != loaded
            if target is not None:
                await take(learners, target)
            report = await learners.update(groups, policy_version=0)
            return loaded, await learners.weights_hash(), learned(report.metrics)
        finally:
            stop(learners)

    before, after, metrics, files = asyncio.run(straight())
    assert before != after
    assert read_index(tmp_path / "two" / LEARNER).optimizer_step == UPDATES
    assert all(digest(tmp_path / "two" / name) == seen for name, seen in files.items())

    assert asyncio.run(go_on(2, tmp_path / "two")) == (before, after, metrics)

    # Three ranks do not divide the parameters; with a threshold, small ones are whole on every rank beside the shards.
    loaded, _, on_three = asyncio.run(go_on(3, tmp_path / "two", tmp_path / "three", persistence_threshold=100))
    assert loaded == before
    loaded, _, on_one = asyncio.run(go_on(1, tmp_path / "three"))
    assert loaded == before
    for name, value in metrics.items():
        assert on_three[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
        assert on_one[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


@pytest.mark.ray
@pytest.mark.slow
def test_before_the_first_update_there_is_a_state_too_and_another_models_is_refused(ray_cluster, make_model, tmp_path):
    async def attempt():
        learners = await start(make_model(), config(2))
        try:
            await learners.stage()
            await learners.write(tmp_path)
            before = await learners.weights_hash()
            await learners.load(tmp_path)
            assert await learners.weights_hash() == before
            index = json.loads((tmp_path / LEARNER / "state.json").read_text())
            assert index["optimizer_step"] == 0
            index["shapes"]["model.norm.weight"] = [65]
            (tmp_path / LEARNER / "state.json").write_text(json.dumps(index))
            with pytest.raises(
                CheckpointError, match=r"another model: 1 trainable .*model.norm.weight has shape \[65\]"
            ):
                await learners.load(tmp_path)
        finally:
            stop(learners)

    asyncio.run(attempt())
