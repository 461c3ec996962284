"""The learner's state through real ZeRO-3 ranks: copied aside, written while training goes on, read by other ranks."""

import asyncio
import json
from pathlib import Path

import pytest
import torch
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state
from transformers import AutoModelForCausalLM

from delta.errors import CheckpointError, StorageError
from tests.workers.learner.ranks import run_ranks
from tests.workers.learner.test_engine import loss_of, micro_batch
from tests.workers.learner.test_partition_invariance import UPDATES, random_groups, start, stop, weights_hash
from workers.files import digest
from workers.learner.checkpoint import (
    LEARNER,
    MOMENTS,
    LearnerState,
    Shards,
    StagedState,
    StateIndex,
    read_index,
    shard_range,
    write_state,
)
from workers.learner.config import LearnerConfig, OffloadConfig, OffloadDevice
from workers.learner.engine import create_engine
from workers.learner.policy import Policy
from workers.weights.source import Zero3Source


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


def test_a_rank_that_was_given_up_does_not_make_its_draft_again(tmp_path):
    with pytest.raises(StorageError, match=r"learner rank 1: .*No such file"):
        write_state(staged(1, 2, torch.ones(4)), tmp_path / ".writing-000002-0123" / "learner", rank=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ray
@pytest.mark.slow
def test_state_survives_ranks_and_is_that_of_the_moment_it_was_taken(ray_cluster, make_model, tmp_path):
    model_path = make_model()
    groups = random_groups(AutoModelForCausalLM.from_pretrained(model_path).eval())

    async def straight():
        """One update, a checkpoint that is written while the second one runs."""
        learners = await start(model_path, config(2), mismatch_limit=10)
        try:
            await learners.update(groups, policy_version=0)
            before = await weights_hash(learners)
            size = await learners.stage()
            (tmp_path / "two").mkdir()
            assert size == await learners.checkpoint_bytes() + 2 * torch.get_rng_state().nbytes
            report, files = await asyncio.gather(
                learners.update(groups, policy_version=0), learners.write(tmp_path / "two")
            )
            return before, await weights_hash(learners), learned(report.metrics), files
        finally:
            stop(learners)

    async def go_on(ranks: int, source: Path, **changes):
        """A fresh group takes the state over, and trains the same batch again."""
        learners = await start(model_path, config(ranks, **changes), mismatch_limit=10)
        try:
            fresh = await weights_hash(learners)
            await learners.load(source)
            loaded = await weights_hash(learners)
            assert fresh != loaded
            report = await learners.update(groups, policy_version=0)
            return loaded, await weights_hash(learners), learned(report.metrics)
        finally:
            stop(learners)

    before, after, metrics, files = asyncio.run(straight())
    assert before != after
    assert read_index(tmp_path / "two" / LEARNER).optimizer_step == UPDATES
    assert all(digest(tmp_path / "two" / name) == seen for name, seen in files.items())

    assert asyncio.run(go_on(2, tmp_path / "two")) == (before, after, metrics)

    # Three ranks do not divide the parameters; with a threshold, small ones are whole on every rank beside the shards.
    loaded, _, on_three = asyncio.run(go_on(3, tmp_path / "two", persistence_threshold=100))
    assert loaded == before
    for name, value in metrics.items():
        assert on_three[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


@pytest.mark.ray
@pytest.mark.slow
def test_before_the_first_update_there_is_a_state_too_and_another_models_is_refused(ray_cluster, make_model, tmp_path):
    async def attempt():
        learners = await start(make_model(), config(2))
        try:
            await learners.stage()
            await learners.write(tmp_path)
            before = await weights_hash(learners)
            await learners.load(tmp_path)
            assert await weights_hash(learners) == before
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


def trained_engine(path, dtype, *, updates: int, **changes):
    """A bare engine after a few updates that are the same on any number of ranks."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    engine = create_engine(Policy(model, temperature=1.0), LearnerConfig(adam_eps=1e-2, **changes))
    for step in range(updates):
        engine.backward(loss_of(engine, micro_batch(step)))
        engine.step()
    return engine, model


def whole_state(engine, model) -> dict[str, torch.Tensor]:
    """Everything that decides the future, gathered: working weights, master weights, moments."""
    found = {f"{name}.working": weight.clone() for name, weight in Zero3Source(model)}
    for name, weight in model.named_parameters():
        found[f"{name}.master"] = safe_get_full_fp32_param(weight).clone()
        for key in MOMENTS:
            found[f"{name}.{key}"] = safe_get_full_optimizer_state(weight, key).clone()
    return found


PRECISIONS = {
    "float32": (torch.float32, {}),
    "bfloat16": (torch.bfloat16, {}),
    "bfloat16 offloaded": (
        torch.bfloat16,
        {"offload": OffloadConfig(optimizer=OffloadDevice.cpu, parameters=OffloadDevice.cpu, pin_memory=False)},
    ),
}


def save_rank(rank: int, path, folder):
    found = {}
    for name, (dtype, changes) in PRECISIONS.items():
        engine, model = trained_engine(path, dtype, updates=2, **changes)
        staged_state = LearnerState(engine, model).stage()
        found[name] = whole_state(engine, model)
        engine.backward(loss_of(engine, micro_batch(2)))
        engine.step()
        write_state(staged_state, Path(folder) / name, rank=rank)
        found[name, "next"] = whole_state(engine, model)
    return found


def load_rank(rank: int, path, folder):
    found = {}
    for name, (dtype, changes) in PRECISIONS.items():
        engine, model = trained_engine(path, dtype, updates=0, **changes)
        LearnerState(engine, model).load(Path(folder) / name)
        found[name] = whole_state(engine, model)
        engine.backward(loss_of(engine, micro_batch(2)))
        engine.step()
        found[name, "next"] = whole_state(engine, model)
    return found


@pytest.mark.ray
@pytest.mark.slow
def test_every_precision_is_loaded_to_the_bit_by_fewer_and_more_ranks(make_model, tmp_path):
    path = make_model()
    (saved, _) = run_ranks(save_rank, path, str(tmp_path), ranks=2)
    for ranks in (1, 2, 4):
        loaded = run_ranks(load_rank, path, str(tmp_path), ranks=ranks)[0]
        for name in PRECISIONS:
            assert loaded[name].keys() == saved[name].keys()
            for key, tensor in saved[name].items():
                assert loaded[name][key].equal(tensor), f"{name}: {key} on {ranks} ranks"
            for key, tensor in saved[name, "next"].items():
                if ranks == 2:
                    assert loaded[name, "next"][key].equal(tensor), f"{name}: next {key}"
                else:  # the same gradient on every rank: its mean differs by rounding
                    torch.testing.assert_close(loaded[name, "next"][key].float(), tensor.float(), atol=1e-5, rtol=1e-2)
