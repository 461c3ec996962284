"""What a run will hold in memory, from sizes alone: no weights are loaded, nothing is allocated.

Each formula counts what transformers, DeepSpeed and the learner allocate at the moment of their peak; `docs/memory.md`
compares them with measured runs. Tokens are those of packed sequences: a token is a token, pads do not occur.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch

from workers.learner.config import OffloadDevice
from workers.learner.engine import REDUCE_BUCKET_ELEMENTS
from workers.weights.buckets import BUCKET_BYTES

MIB, GIB = 2**20, 2**30

MAX_LIVE_ELEMENTS, PREFETCH_ELEMENTS = 1_000_000_000, 50_000_000
"""Weights that DeepSpeed keeps gathered for their next use, and fetches ahead, unless told otherwise."""

FLOAT32 = 4


class Place(Enum):
    """Whose memory: the accelerator's (on a machine without one, the host's), the host's, or a disk."""

    device = "device"
    host = "host"
    disk = "disk"


class Phase(Enum):
    """When: all the time, or only in a phase; what is needed at once is `always` and the largest of the others."""

    always = "always"
    loading = "loading"
    credit = "old pass and credit"
    update = "forward and backward"
    optimizer = "optimizer step"
    sync = "weight sync"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Sizes of a causal LM."""

    parameters: int
    """Tied weights once."""
    largest_group: int
    """Elements that ZeRO-3 gathers together at most: a decoder layer, the embedding, the LM head."""
    largest_parameter: int
    num_layers: int
    hidden: int
    intermediate: int
    """Width of the MLP for one token: that of all experts it visits."""
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocabulary: int
    norms_heads: bool
    """Whether queries and keys are normalised (Qwen3, OLMo)."""


def model_shape(config: Any) -> ModelShape:
    """Sizes of the model that a Hugging Face configuration describes; it is built without memory.

    Args:
        config: A `PretrainedConfig` of a causal LM.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    blocks = set(model._no_split_modules or ())
    groups = [
        sum(weight.numel() for weight in module.parameters())
        for module in model.modules()
        if type(module).__name__ in blocks or isinstance(module, torch.nn.Embedding)
    ]
    names = [name for name, _ in model.named_parameters()]
    experts = getattr(config, "num_experts_per_tok", None)
    width = config.intermediate_size
    if experts:
        width = experts * getattr(config, "moe_intermediate_size", width)
    heads = config.num_attention_heads
    return ModelShape(
        parameters=sum(weight.numel() for weight in model.parameters()),
        largest_group=max([*groups, model.get_output_embeddings().weight.numel()]),
        largest_parameter=max(weight.numel() for weight in model.parameters()),
        num_layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=width,
        num_heads=heads,
        num_kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocabulary=config.vocab_size,
        norms_heads=any(name.endswith("q_norm.weight") for name in names),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryInputs:
    """Everything a plan is computed from."""

    model: ModelShape
    working_bytes: int
    """Of a weight in the forward pass: 4 in float32, 2 in bfloat16."""
    on_gpu: bool
    num_ranks: int
    num_engines: int
    micro_batch_tokens: int
    """Of the largest micro-batch: the budget, or a single longer row."""
    step_tokens: int
    """Response tokens of a whole step, all ranks together, if every rollout is as long as it may be."""
    lm_head_chunk_tokens: int
    gradient_checkpointing: bool = False
    sequence_parallel: int = 1
    may_share_sequences: bool = True
    """Whether rows and layers are such that `sequence_parallel` may be more than 1: packed, and not compiled."""
    offload_optimizer: OffloadDevice = OffloadDevice.none
    offload_parameters: OffloadDevice = OffloadDevice.none
    has_reference: bool = False
    """Whether a frozen policy is kept beside (KL terms); with adapters the policy itself is asked, without them."""
    adapter_parameters: int = 0
    """Of LoRA, where they alone are trained; 0 where all weights are."""
    proxy_bytes: int = 0
    """Of a number in the token vectors of credit; 0 where credit needs none."""
    keeps_head_sums: bool = False
    """Whether credit sums up gradients of the whole LM head (`proxy=last_layer`)."""
    device_cache_bytes: int = 16 * GIB
    """Token vectors beyond it go to host memory, on a GPU."""
    max_live_elements: int = MAX_LIVE_ELEMENTS
    prefetch_elements: int = PREFETCH_ELEMENTS
    reduce_bucket_elements: int = REDUCE_BUCKET_ELEMENTS
    kv_cache_bytes: int = GIB
    object_store_bytes: int = 256 * MIB
    learner_process_bytes: int = 1_000 * MIB
    """Python, torch, transformers, DeepSpeed and vLLM's transfer, before a model is loaded."""
    engine_process_bytes: int = 1_400 * MIB
    """Python, torch and vLLM, with what it needs while it runs."""
    other_processes_bytes: int = 1_600 * MIB
    """Controller, verifier and Ray's own."""
    gpu_process_bytes: int = 2 * GIB
    """Context, communication buffers and slack of the allocator on a GPU, per process."""


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that takes memory."""

    name: str
    bytes: int
    phases: tuple[Phase, ...] = (Phase.always,)
    place: Place = Place.device


@dataclass(frozen=True, slots=True)
class Held:
    """A part in all processes of one kind that share a memory."""

    part: Part
    owner: str
    """The kind of process."""
    count: int = 1
    """Of such processes."""

    @property
    def bytes(self) -> int:
        """Of all of them."""
        return self.count * self.part.bytes


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The parts of one learner rank, of one engine, and of the rest of the run."""

    inputs: MemoryInputs
    learner: tuple[Part, ...]
    engine: tuple[Part, ...]
    shared: tuple[Part, ...]

    def on_learner_device(self) -> list[Held]:
        """What a learner rank holds at its peak on its accelerator, or in host memory where there is none."""
        return [Held(part, "learner rank") for part in at_peak(self.learner, Place.device)]

    def on_engine_device(self) -> list[Held]:
        """What an engine holds, likewise."""
        return [Held(part, "engine") for part in at_peak(self.engine, Place.device)]

    def on_host(self) -> list[Held]:
        """What all processes of the run hold in the memory of one host, each at its own peak."""
        inputs = self.inputs
        places = (Place.host,) if inputs.on_gpu else (Place.device, Place.host)
        return [
            *(Held(part, "learner rank", inputs.num_ranks) for part in at_peak(self.learner, *places)),
            *(Held(part, "engine", inputs.num_engines) for part in at_peak(self.engine, *places)),
            *(Held(part, "run") for part in at_peak(self.shared, Place.host)),
        ]

    @property
    def learner_device(self) -> int:
        """Peak of a learner rank on its accelerator, or in host memory where there is none."""
        return total(self.on_learner_device())

    @property
    def engine_device(self) -> int:
        """Peak of an engine, likewise."""
        return total(self.on_engine_device())

    @property
    def host(self) -> int:
        """All processes of the run in the memory of one host."""
        return total(self.on_host())

    @property
    def disk(self) -> int:
        """On the disk of one host, all ranks together."""
        return self.inputs.num_ranks * peak(self.learner, Place.disk)


def at_peak(parts: Iterable[Part], *places: Place) -> list[Part]:
    """The parts held at once: those that are always there and those of the phase that needs most."""
    here = [part for part in parts if part.place in places]
    phases = [[part for part in here if phase in part.phases or Phase.always in part.phases] for phase in Phase]
    return max(phases, key=lambda held: sum(part.bytes for part in held))


def peak(parts: Iterable[Part], *places: Place) -> int:
    """Bytes held at once."""
    return sum(part.bytes for part in at_peak(parts, *places))


def total(held: Iterable[Held]) -> int:
    """Bytes of them all."""
    return sum(each.bytes for each in held)


def plan_memory(inputs: MemoryInputs) -> MemoryPlan:
    """The plan of a run."""
    return MemoryPlan(
        inputs,
        learner=tuple(part for part in _learner_parts(inputs) if part.bytes),
        engine=tuple(_engine_parts(inputs)),
        shared=(
            Part("controller, verifier, Ray", inputs.other_processes_bytes, place=Place.host),
            Part("Ray's object store", inputs.object_store_bytes, place=Place.host),
        ),
    )


def layer_activation_bytes(model: ModelShape, working_bytes: int) -> int:
    """What a decoder layer keeps of one token for its backward pass.

        2 (4 + 2b) H              two norms: input in float32, normalised, scaled
        b (3 q + 2 k)             queries, attention's output and its copy, keys, values; q = heads d, k = kv heads d
        (4 + b) (q + k)           norms of queries and keys, where there are any
        4 b I                     gate, its activation, up, and their product
        4 (heads + 2)             float32 statistics of attention and norms

    for b bytes per number, as counted from the tensors that autograd saves (Llama and Qwen3, both precisions).
    """
    query, key = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    norms = 2 * (FLOAT32 + 2 * working_bytes) * model.hidden
    attention = working_bytes * (3 * query + 2 * key) + FLOAT32 * (model.num_heads + 2)
    if model.norms_heads:
        attention += (FLOAT32 + working_bytes) * (query + key) + FLOAT32 * (model.num_heads + model.num_kv_heads)
    return norms + attention + 4 * working_bytes * model.intermediate


def activation_bytes(inputs: MemoryInputs) -> int:
    """What is kept of the largest micro-batch between forward and backward, and the workspace of one layer."""
    model, working = inputs.model, inputs.working_bytes
    tokens = -(-inputs.micro_batch_tokens // inputs.sequence_parallel)
    layer = layer_activation_bytes(model, working)
    ends = (FLOAT32 + 3 * working) * model.hidden + 2 * working * model.head_dim
    kept = working * model.hidden if inputs.gradient_checkpointing else layer
    return tokens * (model.num_layers * kept + layer + ends)


def _learner_parts(inputs: MemoryInputs) -> Iterable[Part]:
    model, working, ranks = inputs.model, inputs.working_bytes, inputs.num_ranks
    trained = inputs.adapter_parameters or model.parameters
    shard = -(-(model.parameters + inputs.adapter_parameters) // ranks)
    trained_shard = -(-trained // ranks)
    weights_place, states_place = _place(inputs.offload_parameters), _place(inputs.offload_optimizer)
    moved_states = inputs.offload_optimizer is not OffloadDevice.none

    yield Part("process", inputs.learner_process_bytes, place=Place.host)
    if inputs.on_gpu:
        yield Part("CUDA and NCCL", inputs.gpu_process_bytes)
    yield Part("weights, working precision", shard * working, place=weights_place)
    if working < FLOAT32 or moved_states:
        yield Part("master weights", trained_shard * FLOAT32, place=states_place)
    yield Part("AdamW moments", 2 * trained_shard * FLOAT32, place=states_place)
    # Where the optimizer is offloaded, gradients are added up beside it, in host memory even with NVMe.
    gradients_place = Place.host if moved_states else Place.device
    yield Part("gradients, added up", trained_shard * FLOAT32, place=gradients_place)
    if moved_states:
        yield Part("gradients of the optimizer", trained_shard * FLOAT32, place=states_place)
    else:
        yield Part("gradients of the optimizer", trained_shard * FLOAT32, (Phase.optimizer,))
    if inputs.has_reference and not inputs.adapter_parameters:
        yield Part("reference policy", shard * working, place=weights_place)

    yield Part("checkpoint on its way to the disk", trained_shard * 3 * FLOAT32, place=Place.host)
    # Every rank reads the whole model before it is partitioned.
    yield Part("whole model while loading", model.parameters * working, (Phase.loading,), Place.host)
    if inputs.on_gpu:
        yield Part("whole model on its way into shards", (model.parameters - shard) * working, (Phase.loading,))

    passes = (Phase.credit, Phase.update)
    gathers = ranks > 1 or (inputs.on_gpu and inputs.offload_parameters is not OffloadDevice.none)
    live = min(model.parameters, inputs.max_live_elements + inputs.prefetch_elements + model.largest_group)
    yield Part("gathered weights", live * working if gathers else 0, passes)
    bucket = min(inputs.reduce_bucket_elements, trained)
    yield Part("bucket of gradients", (inputs.reduce_bucket_elements if inputs.on_gpu else bucket) * FLOAT32)
    largest = model.largest_parameter
    largest_trained = trained if inputs.adapter_parameters else largest
    group = -(-trained // model.num_layers) if inputs.adapter_parameters else model.largest_group
    yield Part(
        "gradients in flight",
        max(bucket * FLOAT32, largest_trained * (FLOAT32 + working)) + group * working,
        (Phase.update,),
    )
    chunk = min(inputs.lm_head_chunk_tokens, inputs.micro_batch_tokens) * model.vocabulary
    yield Part("logits of a chunk", chunk * (2 * FLOAT32 + working), passes)
    head = 0 if inputs.adapter_parameters else model.vocabulary * model.hidden
    yield Part("gradient of the LM head, float32", head * (FLOAT32 + working), (Phase.update,))
    yield Part("activations of a micro-batch", activation_bytes(inputs), (Phase.update,))
    tokens = -(-inputs.micro_batch_tokens // inputs.sequence_parallel)
    yield Part("one layer of a micro-batch", tokens * layer_activation_bytes(model, working), (Phase.credit,))
    yield from _credit_parts(inputs)
    yield Part(
        "gathered group of weights",
        min(model.parameters, model.largest_group) * working if gathers else 0,
        (Phase.sync,),
    )
    yield Part("transfer buffer", max(BUCKET_BYTES, largest * working), (Phase.sync,))


def _credit_parts(inputs: MemoryInputs) -> Iterable[Part]:
    """Token vectors and sums over the LM head: both are gone when the updates begin, which need coefficients only."""
    model = inputs.model
    data_ranks = inputs.num_ranks // inputs.sequence_parallel
    vectors = -(-inputs.step_tokens // data_ranks) * model.hidden * inputs.proxy_bytes
    kept = min(vectors, inputs.device_cache_bytes) if inputs.on_gpu else vectors
    yield Part("token vectors of credit", kept, (Phase.credit,))
    yield Part("token vectors beyond the cache", vectors - kept, (Phase.credit,), Place.host)
    if inputs.keeps_head_sums:
        # Sums and centroids of both sides and a direction: float64 on a CPU, float32 on a GPU; and the head itself.
        head = model.vocabulary * model.hidden
        number = FLOAT32 if inputs.on_gpu else 2 * FLOAT32
        yield Part("sums over the LM head", head * (5 * number + inputs.working_bytes), (Phase.credit,))


def _engine_parts(inputs: MemoryInputs) -> Iterable[Part]:
    model, working = inputs.model, inputs.working_bytes
    yield Part("process", inputs.engine_process_bytes, place=Place.host)
    if inputs.on_gpu:
        yield Part("CUDA and NCCL", inputs.gpu_process_bytes)
    yield Part("weights", model.parameters * working)
    yield Part("KV cache", inputs.kv_cache_bytes)
    yield Part("transfer buffer", max(BUCKET_BYTES, model.largest_parameter * working), (Phase.sync,))


def _place(device: OffloadDevice) -> Place:
    return {
        OffloadDevice.none: Place.device,
        OffloadDevice.cpu: Place.host,
        OffloadDevice.nvme: Place.disk,
    }[device]
