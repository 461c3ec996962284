"""The DeepSpeed engine: precision, offload, compilation, and what its configuration may say."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_grad
from torch import Tensor
from transformers import AutoModelForCausalLM

import workers.learner.engine as engine_module
from delta.data.micro_batch import MicroBatch
from delta.errors import ConfigError
from tests.workers.learner.ranks import run_ranks
from workers.learner.config import LearnerConfig, OffloadConfig, OffloadDevice
from workers.learner.engine import can_build_async_io, check_learner, create_engine, deepspeed_config
from workers.learner.policy import Policy


def micro_batch(seed: int, *, tokens: int = 24) -> MicroBatch:
    generator = torch.Generator().manual_seed(seed)
    token_ids = torch.randint(0, 256, (2, tokens), generator=generator)
    return MicroBatch(
        token_ids=token_ids, predictors=torch.arange(tokens - 1), targets=token_ids.flatten()[1:tokens].clone()
    )


def loss_of(policy, batch: MicroBatch) -> Tensor:
    return -policy(batch).log_probs.mean()


def load(path, dtype: torch.dtype) -> Policy:
    return Policy(AutoModelForCausalLM.from_pretrained(path, dtype=dtype), temperature=1.0)


def gradients(engine) -> dict[str, Tensor]:
    return {name: safe_get_full_grad(weight).clone() for name, weight in engine.module.named_parameters()}


def masters(engine) -> dict[str, Tensor]:
    return {name: safe_get_full_fp32_param(weight).clone() for name, weight in engine.module.named_parameters()}


def reduce_in_bfloat16(config, *, dtype, whole=deepspeed_config):
    return {**whole(config, dtype=dtype), "communication_data_type": "bf16"}


def bfloat16_rank(rank: int, path, communicate: str):
    """Gradients of DeepSpeed, the float32 sum of the ranks' own, and the weights before and after tiny updates."""
    if communicate == "bf16":  # what DeepSpeed does unless told otherwise
        engine_module.deepspeed_config = reduce_in_bfloat16
    # Two micro-batches per rank, as plain autograd has them.
    own: dict[str, Tensor] = {}
    for part in range(2):
        plain = load(path, torch.bfloat16)
        loss_of(plain, micro_batch(10 * rank + part)).backward()
        for name, weight in plain.named_parameters():
            own[name] = own.get(name, torch.zeros_like(weight, dtype=torch.float64)) + weight.grad.double()
    for gradient in own.values():
        torch.distributed.all_reduce(gradient)

    engine = create_engine(load(path, torch.bfloat16), LearnerConfig(learning_rate=1e-6, weight_decay=0.0))
    before = masters(engine)
    for part in range(2):
        engine.backward(loss_of(engine, micro_batch(10 * rank + part)) * 2)  # DeepSpeed averages over two ranks
    summed = gradients(engine)
    engine.step()
    optimizer = engine.optimizer.optimizer
    dtypes = {
        "weights": {weight.ds_tensor.dtype for weight in engine.module.parameters()},
        "moments": {state[name].dtype for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")},
        "buffers": {buffer.dtype for buffer in engine.module.buffers()},
    }
    error = max(float((summed[name] - own[name]).abs().max() / own[name].abs().max()) for name in own)
    return error, before, masters(engine), dtypes


def compared(pairs: list[tuple[Tensor, Tensor]]) -> float:
    """Largest difference."""
    return max(float((one - other).abs().max()) for one, other in pairs)


def offload_rank(rank: int, path):
    """Weights and gradient norms of three updates in each precision, by what is offloaded."""
    cpu = OffloadDevice.cpu
    choices = {
        "plain": OffloadConfig(),
        "optimizer": OffloadConfig(optimizer=cpu),
        "parameters": OffloadConfig(parameters=cpu),
        "both": OffloadConfig(optimizer=cpu, parameters=cpu, pin_memory=False),
    }
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        for name, offload in choices.items():
            engine = create_engine(load(path, dtype), LearnerConfig(offload=offload, adam_eps=1e-2))
            norms = []
            for step in range(3):
                for part in range(2):
                    engine.backward(loss_of(engine, micro_batch(100 * step + 10 * rank + part)))
                engine.step()
                norms.append(float(engine.get_global_grad_norm()))
            moved = [
                place is not None and place.device == "cpu"
                for place in (engine.zero_offload_optimizer(), engine.zero_offload_param())
            ]
            found[dtype, name] = masters(engine), norms, moved
    return found


def lost_rank(rank: int, path):
    """Norm and largest change of the weights in three updates, of which the second is no number on one of the ranks."""
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        engine = create_engine(load(path, dtype), LearnerConfig(adam_eps=1e-2))
        for step in range(3):
            before = masters(engine)
            factor = torch.nan if step == rank == 1 else 1.0
            engine.backward(loss_of(engine, micro_batch(10 * step + rank)) * factor)
            engine.step()
            after = masters(engine)
            found.append((float(engine.get_global_grad_norm()), compared([(before[n], after[n]) for n in before])))
    return found


def packed(seed: int, *lengths: int) -> MicroBatch:
    """Rows of the given lengths end to end; every position predicts."""
    generator = torch.Generator().manual_seed(seed)
    token_ids = torch.randint(0, 256, (1, sum(lengths)), generator=generator)
    targets = torch.randint(0, 256, (sum(lengths),), generator=generator)
    return MicroBatch(token_ids=token_ids, predictors=torch.arange(sum(lengths)), targets=targets, row_lengths=lengths)


def compiled_rank(rank: int, path):
    """Losses, gradients and next weights of packed rows, many and few; plain, compiled, and with checkpointing."""
    torch._dynamo.config.fail_on_recompile_limit_hit = True  # instead of going on uncompiled in silence
    rows = [(24,), (40, 30), (9, 9, 8, 33), (5, 17, 60), (64, 2), (12, 11, 10, 9, 8, 7, 6), (31,), (50, 21, 3)]
    results = []
    for compiled, checkpointing in ((False, False), (True, False), (True, True)):
        torch.compiler.reset()  # another engine would take over the code of the last one
        torch._dynamo.utils.counters.clear()
        policy = load(path, torch.float32)
        if checkpointing:
            policy.causal_lm.gradient_checkpointing_enable({"use_reentrant": False})
        engine = create_engine(policy, LearnerConfig(compile=compiled, adam_eps=1e-2))
        losses = []
        for place, lengths in enumerate(rows):
            loss = loss_of(engine, packed(10 * place + rank, *lengths))
            losses.append(float(loss.detach()))
            engine.backward(loss)
        summed = gradients(engine)
        engine.step()
        results.append((losses, summed, masters(engine), torch._dynamo.utils.counters["stats"]["unique_graphs"]))
    return results


@pytest.mark.slow
@pytest.mark.ray
def test_bfloat16_is_reduced_and_updated_in_float32(make_model):
    for error, before, after, dtypes in run_ranks(bfloat16_rank, make_model(), "fp32", ranks=2):
        assert error < 1e-6  # of the largest gradient, against float64; bfloat16 rounds at 4e-3
        assert dtypes == {"weights": {torch.bfloat16}, "moments": {torch.float32}, "buffers": {torch.float32}}
        pairs = [(before[name].flatten(), after[name].flatten()) for name in before]
        old, new = torch.cat([old for old, _ in pairs]), torch.cat([new for _, new in pairs])
        # Updates of 1e-6 to weights a thousand times larger: the master weights have them, bfloat16 could not.
        large = old.abs() > 1e-3
        assert (new != old)[large].float().mean() > 0.5
        assert (new.bfloat16() == old.bfloat16())[large].float().mean() > 0.9


@pytest.mark.slow
@pytest.mark.ray
def test_reduction_in_bfloat16_would_be_noticed(make_model):
    """The control of the test above."""
    for error, *_ in run_ranks(bfloat16_rank, make_model(), "bf16", ranks=2):
        assert error > 1e-4


@pytest.mark.slow
@pytest.mark.ray
def test_an_update_without_a_finite_gradient_changes_no_weight_and_every_rank_knows(make_model):
    """What `learner/skipped_updates` and its alarm rely on: DeepSpeed goes on without a word."""
    for found in run_ranks(lost_rank, make_model(), ranks=2):
        for norm, change in (found[1], found[4]):
            assert not np.isfinite(norm)
            assert change == 0
        for norm, change in (*found[:1], *found[2:4], *found[5:]):
            assert np.isfinite(norm)
            assert change > 0


@pytest.mark.slow
@pytest.mark.ray
def test_offload_changes_nothing(make_model):
    for found in run_ranks(offload_rank, make_model(), ranks=2):
        for (dtype, name), (weights, norms, moved) in found.items():
            expected, expected_norms, _ = found[dtype, "plain"]
            assert compared([(weights[key], expected[key]) for key in expected]) < 1e-6, (dtype, name)
            assert norms == pytest.approx(expected_norms, rel=1e-5), (dtype, name)
            assert moved == [name in ("optimizer", "both"), name in ("parameters", "both")]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler, and there is no g++")
def test_compiled_layers_give_the_same_loss_and_gradients(make_model):
    for plain, *others in run_ranks(compiled_rank, make_model(), ranks=2):
        assert plain[3] == 0
        for losses, summed, weights, graphs in others:
            assert losses == pytest.approx(plain[0], rel=1e-5)
            assert compared([(summed[name], plain[1][name]) for name in summed]) < 1e-4
            assert compared([(weights[name], plain[2][name]) for name in weights]) < 1e-6
            assert graphs > 0


def test_what_deepspeed_is_told():
    settings = deepspeed_config(LearnerConfig(max_grad_norm=0.5), dtype=torch.bfloat16)
    assert settings["bf16"] == {"enabled": True}
    assert settings["communication_data_type"] == "fp32"
    assert settings["data_types"] == {"grad_accum_dtype": "fp32"}
    assert settings["gradient_clipping"] == 0.5
    assert "offload_optimizer" not in settings["zero_optimization"]
    assert deepspeed_config(LearnerConfig(), dtype=torch.float32)["bf16"] == {"enabled": False}


def test_experts_may_add_what_nobody_decides():
    further = {
        "zero_optimization": {"sub_group_size": 7, "offload_optimizer": {"ratio": 0.5}},
        "wall_clock_breakdown": True,
    }
    offload = OffloadConfig(optimizer=OffloadDevice.cpu)
    settings = deepspeed_config(LearnerConfig(deepspeed=further, offload=offload), dtype=torch.float32)
    assert settings["wall_clock_breakdown"] is True
    assert settings["zero_optimization"]["sub_group_size"] == 7
    assert settings["zero_optimization"]["stage"] == 3
    assert settings["zero_optimization"]["offload_optimizer"] == {"device": "cpu", "pin_memory": True, "ratio": 0.5}


@pytest.mark.parametrize(
    ("further", "expected"),
    [
        ({"zero_optimization": {"stage": 2}}, ["learner.deepspeed.zero_optimization.stage=2", "ZeRO-3"]),
        ({"bf16": {"enabled": True}}, ["learner.deepspeed.bf16", "model.dtype"]),
        ({"gradient_clipping": 2.0}, ["gradient_clipping=2.0", "learner.max_grad_norm"]),
        ({"zero_optimization": {"offload_param": {"device": "cpu"}}}, ["offload_param.device", "offload.parameters"]),
        ({"optimizer": {"type": "SGD"}}, ["learner.deepspeed.optimizer", "learner.learning_rate"]),
    ],
)
def test_experts_may_not_change_what_has_an_owner(further, expected):
    with pytest.raises(ConfigError) as caught:
        deepspeed_config(LearnerConfig(deepspeed=further), dtype=torch.float32)
    for text in expected:
        assert text in str(caught.value)


def test_nvme_needs_a_folder_and_the_optimizer_first():
    with pytest.raises(ValueError, match=r"expected learner\.offload\.nvme_path"):
        OffloadConfig(optimizer=OffloadDevice.nvme)
    with pytest.raises(ValueError, match=r"Set learner\.offload\.optimizer=nvme"):
        OffloadConfig(parameters=OffloadDevice.nvme, nvme_path="/disk")


def test_nvme_is_refused_where_it_cannot_work(tmp_path):
    offload = OffloadConfig(optimizer=OffloadDevice.nvme, nvme_path=str(tmp_path))
    if not can_build_async_io():
        with pytest.raises(ConfigError, match=r"nvme needs DeepSpeed's async_io.*libaio.*offload\.optimizer=cpu"):
            check_learner(LearnerConfig(offload=offload))
    else:
        check_learner(LearnerConfig(offload=offload))
        with pytest.raises(ConfigError, match=r"nvme_path=/proc/nowhere cannot be written"):
            check_learner(LearnerConfig(offload=replace(offload, nvme_path="/proc/nowhere")))


def test_compilation_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"learner\.compile=true needs a C\+\+ compiler"):
        check_learner(LearnerConfig(compile=True))
    check_learner(LearnerConfig())


def test_compilation_of_shared_sequences_is_refused():
    with pytest.raises(ValueError, match=r"learner\.compile=true with learner\.sequence_parallel=2 is not supported"):
        LearnerConfig(compile=True, sequence_parallel=2)
