"""The memory plan: hand-worked parts, sizes from a configuration alone, and a real rank against its plan."""

import weakref
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.distributed
from transformers import LlamaConfig, Qwen3Config, Qwen3MoeConfig

from delta.advantages import GroupAdvantageConfig
from delta.aggregations import TokenMeanConfig
from delta.credit import DiscriminativeConfig
from delta.errors import ConfigError
from delta.surrogates import ClippedConfig
from tests.bench import memory_plan as bench
from tests.factories import make_group
from tests.tiny_models import tiny_model
from workers.learner.config import LearnerConfig, OffloadDevice
from workers.learner.learner import AlgorithmConfig, Learner
from workers.learner.memory_plan import (
    GIB,
    MemoryInputs,
    Phase,
    Place,
    activation_bytes,
    layer_activation_bytes,
    peak,
    plan_memory,
)
from workers.learner.model_shape import ModelShape, model_shape
from workers.learner.policy import Policy

SHAPE = ModelShape(
    parameters=8_000_000_000,
    largest_group=600_000_000,
    largest_parameter=600_000_000,
    num_layers=36,
    hidden=4096,
    intermediate=12288,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    vocabulary=150_000,
    norms_heads=True,
)
INPUTS = MemoryInputs(
    model=SHAPE,
    working_bytes=2,
    gpus_per_node=16,
    num_ranks=8,
    num_engines=8,
    micro_batch_tokens=20_000,
    step_tokens=800_000,
    lm_head_chunk_tokens=1000,
    proxy_bytes=2,
    prefill_tokens=20_000,
    decoded_sequences=256,
)


def parts_of(inputs: MemoryInputs) -> dict[str, int]:
    return {part.name: part.bytes for part in plan_memory(inputs).learner}


def places_of(inputs: MemoryInputs) -> dict[str, Place]:
    return {part.name: part.place for part in plan_memory(inputs).learner}


def test_sizes_are_those_of_the_model_without_its_weights():
    config = Qwen3Config(
        vocab_size=1000, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, tie_word_embeddings=True,
    )  # fmt: skip
    shape = model_shape(config)
    # q 64 x 64, k and v 64 x 32, o 64 x 64, three of 64 x 96, norms 64 + 64 + 16 + 16
    layer = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96 + 160
    assert shape.parameters == 3 * layer + 1000 * 64 + 64
    assert shape.largest_group == 1000 * 64
    assert shape.norms_heads
    untied = model_shape(Qwen3Config(**{**config.to_dict(), "tie_word_embeddings": False}))
    assert untied.parameters == shape.parameters + 1000 * 64
    llama = LlamaConfig(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4)
    assert not model_shape(llama).norms_heads


def test_a_token_visits_some_experts_only():
    shape = model_shape(
        Qwen3MoeConfig(
            vocab_size=100,
            hidden_size=32,
            intermediate_size=64,
            moe_intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            num_experts=8,
            num_experts_per_tok=2,
        )
    )
    assert shape.intermediate == 2 * 16
    assert shape.parameters > 8 * 3 * 32 * 16


def test_hand_worked_parts():
    parts = parts_of(INPUTS)
    shard = 1_000_000_000
    assert parts["weights, working precision"] == 2 * shard
    assert parts["master weights"] == 4 * shard
    assert parts["AdamW moments"] == 8 * shard
    assert parts["gradients, added up"] == parts["gradients of the optimizer"] == 4 * shard
    assert parts["gathered weights"] == 2 * 1_650_000_000
    assert parts["token vectors of credit"] == 100_000 * 4096 * 2
    assert parts["logits of a chunk"] == 1000 * 150_000 * 10
    assert "master weights" not in parts_of(replace(INPUTS, working_bytes=4))
    assert "gathered weights" not in parts_of(replace(INPUTS, num_ranks=1))


def test_hand_worked_activations():
    # norms 2 x 8 x 4096, attention 2 x (3 x 4096 + 2 x 1024) + 4 x 34, head norms 6 x 5120 + 4 x 40, MLP 8 x 12288
    layer = 65536 + 28672 + 136 + 30720 + 160 + 98304
    assert layer_activation_bytes(SHAPE, 2) == layer
    ends = 10 * 4096 + 4 * 128
    assert activation_bytes(INPUTS) == 20_000 * (37 * layer + ends)
    assert activation_bytes(replace(INPUTS, gradient_checkpointing=True)) == 20_000 * (36 * 8192 + layer + ends)
    assert activation_bytes(replace(INPUTS, sequence_parallel=4)) == 5_000 * (37 * layer + ends)


@pytest.mark.parametrize("config_class", [Qwen3Config, LlamaConfig])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_saves_what_the_formula_says(config_class, dtype):
    saved = []
    for layers in (1, 2):
        config = config_class(
            vocab_size=50, hidden_size=64, intermediate_size=160, num_hidden_layers=layers, num_attention_heads=4,
            num_key_value_heads=2, head_dim=16,
        )  # fmt: skip
        saved.append(bench.saved_bytes(config, dtype, tokens=128))
    per_token = (saved[1] - saved[0]) / 128
    assert per_token == pytest.approx(layer_activation_bytes(model_shape(config), dtype.itemsize), rel=0.05)


def test_offload_moves_and_does_not_shrink():
    plain = plan_memory(INPUTS)
    moved = plan_memory(replace(INPUTS, offload_optimizer=OffloadDevice.cpu))
    assert moved.learner_device <= plain.learner_device - 16 * 1_000_000_000
    assert moved.host >= plain.host + 8 * 16 * 1_000_000_000
    on_disk = plan_memory(replace(INPUTS, offload_optimizer=OffloadDevice.nvme))
    assert on_disk.disk == 8 * 16 * 1_000_000_000
    assert on_disk.host < moved.host
    places = places_of(replace(INPUTS, offload_parameters=OffloadDevice.cpu))
    assert places["weights, working precision"] is Place.host


def test_adapters_alone_have_gradients_moments_and_checkpoints():
    whole, lora = parts_of(INPUTS), parts_of(replace(INPUTS, adapter_parameters=1000, has_reference=True))
    shard = -(-1000 // INPUTS.num_ranks)
    assert lora["AdamW moments"] == 2 * 4 * shard
    assert lora["gradients, added up"] == 4 * shard
    assert lora["checkpoint on its way to the disk"] == 12 * shard
    assert "reference policy" not in lora
    assert "gradient of the LM head, float32" not in lora  # parts of no bytes are left out
    assert lora["weights, working precision"] >= whole["weights, working precision"]
    assert lora["activations of a micro-batch"] == whole["activations of a micro-batch"]


def test_without_a_gpu_everything_is_on_the_host():
    plan = plan_memory(replace(INPUTS, gpus_per_node=0, num_ranks=2, num_engines=3))
    everywhere = (Place.device, Place.host)
    assert plan.host == (
        2 * peak(plan.learner, *everywhere) + 3 * peak(plan.engine, *everywhere) + peak(plan.shared, Place.host)
    )
    assert plan.engine_device >= SHAPE.parameters * 2 + GIB


def test_the_fullest_node_counts():
    """Five engines and six ranks on two nodes with eight GPUs: three ranks and two engines on the first."""
    inputs = replace(INPUTS, nodes=2, gpus_per_node=8, num_ranks=6, num_engines=5)
    plan = plan_memory(inputs)
    per_node = [
        len(node.learner_ranks) * peak(plan.learner, Place.host)
        + len(node.engines) * peak(plan.engine, Place.host)
        + peak(plan.shared, Place.host)
        for node in plan.placement
    ]
    assert [(len(node.learner_ranks), len(node.engines)) for node in plan.placement] == [(3, 2), (3, 3)]
    assert plan.host == per_node[1] > per_node[0]
    on_disk = plan_memory(replace(inputs, offload_optimizer=OffloadDevice.nvme))
    assert on_disk.disk == 3 * peak(on_disk.learner, Place.disk)
    with pytest.raises(ConfigError, match=r"learner\.num_ranks=6 with a GPU each"):
        plan_memory(replace(inputs, gpus_per_node=4))


def test_an_engine_divides_its_weights_and_fills_its_share():
    def parts(inputs):
        return {part.name: part.bytes for part in plan_memory(inputs).engine}

    inputs = replace(INPUTS, gpus_per_node=40, prefill_tokens=1000, decoded_sequences=10)
    one, four = parts(inputs), parts(replace(inputs, gpus_per_engine=4))
    assert (one["weights"], four["weights"]) == (16_000_000_000, 4_000_000_000)
    assert four["process"] == 4 * one["process"]
    # 4 x 4096, 32 + 16 heads of 128, 3 x 12288
    assert one["prompts on their way in"] == 1000 * (16384 + 6144 + 36864) * 2
    assert one["logits of a decoded token"] == 10 * 150_000 * 12
    known = replace(inputs, gpu_bytes=40 * GIB, gpu_share=0.5, longest_row=1000)
    filled = parts(known)
    assert sum(filled.values()) - filled["process"] - filled["transfer buffer"] == 20 * GIB
    on_cpus = parts(replace(known, gpus_per_node=0))
    assert on_cpus["KV cache"] == known.kv_cache_bytes
    assert "logits of a decoded token" not in on_cpus


def test_a_peak_is_what_is_always_there_and_the_largest_phase():
    plan = plan_memory(INPUTS)
    by_phase = {
        phase: sum(part.bytes for part in plan.learner if phase in part.phases and part.place is Place.device)
        for phase in Phase
    }
    always = by_phase.pop(Phase.always)
    assert plan.learner_device == always + max(by_phase.values())
    assert max(by_phase, key=by_phase.get) is Phase.update


def test_token_vectors_are_counted_while_there_are_any():
    parts = {part.name: part for part in plan_memory(replace(INPUTS, device_cache_bytes=GIB // 2)).learner}
    kept, beyond = parts["token vectors of credit"], parts["token vectors beyond the cache"]
    assert (kept.bytes, beyond.bytes) == (GIB // 2, 100_000 * 4096 * 2 - GIB // 2)
    assert kept.phases == beyond.phases == (Phase.credit,)
    more = replace(INPUTS, step_tokens=2 * INPUTS.step_tokens)
    assert plan_memory(more).learner_device == plan_memory(INPUTS).learner_device  # updates are what it needs most for


@dataclass
class PlainEngine:
    """A policy with the face of a DeepSpeed engine, trained by nothing."""

    module: Policy
    when_training: Any
    """Called at the start of every optimizer step."""

    def __call__(self, micro_batch, **arguments):
        return self.module(micro_batch, **arguments)

    def eval(self):
        self.module.eval()

    def train(self):
        self.when_training()
        self.module.train()

    def backward(self, loss):
        loss.backward()

    def step(self):
        self.module.zero_grad()

    def get_global_grad_norm(self):
        return 0.0


def test_a_learner_lets_go_of_the_token_vectors_before_it_updates(tmp_path, monkeypatch):
    spaces, alive = [], []
    new_space = DiscriminativeConfig.new_space

    def noted(config, logits):
        space = new_space(config, logits)
        spaces.append(weakref.ref(space))
        return space

    monkeypatch.setattr(DiscriminativeConfig, "new_space", noted)
    algorithm = AlgorithmConfig(
        advantage=GroupAdvantageConfig(),
        credit=DiscriminativeConfig(),
        surrogate=ClippedConfig(),
        aggregation=TokenMeanConfig(),
    )
    engine = PlainEngine(
        Policy(tiny_model("qwen3"), temperature=1.0), lambda: alive.append([space() for space in spaces])
    )
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        learner = Learner(engine, algorithm, LearnerConfig(num_ranks=1), mismatch_limit=torch.inf)
        learner.update([make_group([1.0, 0.0], group=group) for group in range(2)], policy_version=0)
    finally:
        torch.distributed.destroy_process_group()
    assert alive == [[None], [None]]  # two optimizer steps, one space


@pytest.mark.slow
@pytest.mark.ray
def test_a_real_rank_stays_within_its_plan(tmp_path):
    planned, measured = bench.compare(
        str(tmp_path), bench.make(str(tmp_path)), num_ranks=1, tokens_per_micro_batch=2048
    )
    assert 0.75 * planned < measured < 1.25 * planned
