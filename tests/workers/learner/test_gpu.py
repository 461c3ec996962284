"""A learner rank on a GPU does what it does on a CPU, and leaves its state where others can read it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from deepspeed.utils import safe_get_full_fp32_param
from transformers import AutoModelForCausalLM

import workers.learner.engine as engine_module
from delta.credit import DiscriminativeConfig, Proxy, UniformConfig
from delta.losses import RegularizationConfig
from tests.workers.learner.ranks import run_ranks
from tests.workers.learner.test_partition_invariance import ALGORITHMS, DELTA, random_groups
from workers.device import device
from workers.learner.checkpoint import LearnerState, write_state
from workers.learner.config import LearnerConfig, OffloadConfig, OffloadDevice
from workers.learner.engine import create_engine, create_reference
from workers.learner.learner import Learner
from workers.learner.lora import LoraConfig, add_adapters, whole_adapter
from workers.learner.policy import Policy
from workers.weights.buckets import fill

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.ray,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]

CONFIG = LearnerConfig(num_ranks=1, updates_per_step=2, tokens_per_micro_batch=200, adam_eps=1e-2)

CASES = {
    "DelTA": (DELTA, {}),
    "DelTA, host cache": (replace(DELTA, credit=DiscriminativeConfig(device_cache_gib=0.0)), {}),
    "DelTA, last layer": (replace(DELTA, credit=DiscriminativeConfig(proxy=Proxy.last_layer)), {}),
    "padded": (DELTA, {"packing": False}),
    "checkpointed": (DELTA, {"gradient_checkpointing": True}),
    "LoRA": (DELTA, {"lora": LoraConfig(rank=4)}),
    "optimizer on the CPU": (DELTA, {"offload": OffloadConfig(optimizer=OffloadDevice.cpu)}),
    "uniform, with KL": (replace(DELTA, credit=UniformConfig(), regularization=RegularizationConfig(kl=0.1)), {}),
    **{name: (ALGORITHMS[name], {}) for name in ("FIPO", "forking", "GSPO with sequence IcePop", "SAPO")},
}


def whole_weights(engine: Any) -> dict[str, torch.Tensor]:
    trained = [(name, weight) for name, weight in engine.module.named_parameters() if weight.requires_grad]
    return {name: safe_get_full_fp32_param(weight).detach().cpu().clone() for name, weight in trained}


def make_learner(path: Path, algorithm: Any, config: LearnerConfig, dtype: torch.dtype) -> tuple[Learner, Any]:
    engine_module.can_build_cpu_adam = lambda: False  # torch's will do here, and need not be compiled

    def policy() -> Policy:
        return Policy(AutoModelForCausalLM.from_pretrained(path, dtype=dtype), temperature=0.9)

    trained = policy()
    if config.lora.rank:
        add_adapters(trained.causal_lm, config.lora, model_path="")
    if config.gradient_checkpointing:
        trained.causal_lm.gradient_checkpointing_enable({"use_reentrant": False})
    engine = create_engine(trained, config)
    reference = create_reference(policy(), config) if algorithm.regularization.kl else None
    return Learner(engine, algorithm, config, mismatch_limit=np.inf, reference=reference), engine


def update_rank(rank: int, path: Path, groups: Any) -> dict[str, Any]:
    """Of every case: metrics, coefficients, and weights after an update."""
    found = {}
    for name, (algorithm, changes) in CASES.items():
        config = replace(CONFIG, **changes)
        learner, engine = make_learner(path, algorithm, config, torch.float32)
        assert next(engine.module.parameters()).device.type == device().type
        places, coefficients = (values.cpu() for values in learner.coefficients(groups))
        before = whole_weights(engine)
        metrics = learner.update(groups, policy_version=0).metrics
        after = whole_weights(engine)
        if config.lora.rank:
            assert {weight.device.type for weight in whole_adapter(engine.module.causal_lm).values()} == {"cpu"}
        moved = {key: after[key] - before[key] for key in after}
        log_probs = learner.log_probs(list(range(3, 40))).cpu()
        found[name] = metrics, coefficients[places.argsort()], moved, log_probs
    return found


def test_an_update_on_a_gpu_is_that_of_a_cpu(make_model: Any) -> None:
    path = make_model()
    groups = random_groups(AutoModelForCausalLM.from_pretrained(path).eval())
    (on_cpu,), (on_gpu,) = (run_ranks(update_rank, path, groups, ranks=1, device=kind) for kind in ("cpu", "cuda"))
    for name, (metrics, coefficients, moved, log_probs) in on_gpu.items():
        expected_metrics, expected_coefficients, expected_moves, expected_log_probs = on_cpu[name]
        torch.testing.assert_close(coefficients, expected_coefficients, rtol=1e-3, atol=1e-3, msg=name)
        torch.testing.assert_close(log_probs, expected_log_probs, rtol=1e-3, atol=1e-3, msg=name)
        for key in ("policy/entropy", "loss/surrogate", "learner/grad_norm", "credit/lambda_std", "learner/tokens"):
            assert metrics[key] == pytest.approx(expected_metrics[key], rel=1e-3, abs=1e-4), (name, key)
        largest = max(float(move.abs().max()) for move in expected_moves.values())
        assert largest > 0, name
        for key, move in expected_moves.items():
            assert float((moved[key] - move).abs().max()) < 1e-2 * largest, (name, key)


def checkpoint_rank(rank: int, path: Path, groups: Any, folder: Path) -> None:
    """A state is staged, outlives an update, is written, and makes another engine the same."""
    learner, engine = make_learner(path, DELTA, CONFIG, torch.bfloat16)
    state = LearnerState(engine, engine.module.causal_lm)
    learner.update(groups, policy_version=0)
    expected = whole_weights(engine)
    staged = state.stage()
    assert staged.size == state.size() + torch.get_rng_state().nbytes
    everything = {**staged.weights, **staged.optimizer}
    assert {tensor.device.type for tensor in everything.values()} == {"cpu"}
    held = {name: tensor.clone() for name, tensor in everything.items()}
    for name, weight in expected.items():
        assert staged.weights[name.removeprefix("causal_lm.")].equal(weight.flatten())
    learner.update(groups, policy_version=1)
    assert all(held[name].equal(tensor) for name, tensor in everything.items())
    assert any(not weight.equal(expected[name]) for name, weight in whole_weights(engine).items())
    write_state(staged, folder, rank=0)

    other, other_engine = make_learner(path, DELTA, CONFIG, torch.bfloat16)
    loaded = LearnerState(other_engine, other_engine.module.causal_lm)
    loaded.load(folder)
    assert all(weight.equal(expected[name]) for name, weight in whole_weights(other_engine).items())
    again = loaded.stage()
    assert all(again.optimizer[name].equal(held[name]) for name in again.optimizer if name != "rng")
    other.update(groups, policy_version=1)
    address = staged.weights["model.norm.weight"].data_ptr()
    assert state.stage().weights["model.norm.weight"].data_ptr() == address  # locked once, and kept


def test_state_is_staged_beside_training_and_read_back(make_model: Any, tmp_path: Path) -> None:
    path = make_model()
    groups = random_groups(AutoModelForCausalLM.from_pretrained(path).eval())
    run_ranks(checkpoint_rank, path, groups, tmp_path, ranks=1, device="cuda")


def test_a_packed_pass_makes_no_mask_of_the_sequence_squared(make_model: Any) -> None:
    from tests.workers.learner.test_engine import packed

    policy = Policy(AutoModelForCausalLM.from_pretrained(make_model(), dtype=torch.bfloat16).cuda(), temperature=1.0)
    tokens = 2**15
    batch = packed(0, *[tokens // 64] * 64).to("cuda")
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    policy(batch).log_probs.sum().backward()
    assert torch.cuda.max_memory_allocated() - before < tokens * tokens  # bytes: a mask would be at least that


@dataclass(frozen=True)
class Meta:
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


@pytest.mark.parametrize("pinned", [True, False])
def test_weights_of_a_gpu_are_packed_in_host_memory(pinned: bool) -> None:
    weights = {"a": torch.randn(3, 5, device="cuda"), "b": torch.randn(7, device="cuda")}
    flat = fill(iter(weights.items()), [Meta(n, w.dtype, tuple(w.shape)) for n, w in weights.items()], pinned=pinned)
    assert (flat.device.type, flat.is_pinned()) == ("cpu", pinned)
    assert flat.equal(torch.cat([weight.flatten() for weight in weights.values()]).cpu())
