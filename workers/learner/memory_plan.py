"""What a run will hold in memory, from sizes alone: no weights are loaded, nothing is allocated.

Each formula counts what transformers, DeepSpeed and the learner allocate at the moment of their peak; `docs/memory.md`
compares them with measured runs. Tokens are those of packed sequences: a token is a token, pads do not occur.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from workers.learner.config import OffloadDevice
from workers.learner.engine import REDUCE_BUCKET_ELEMENTS
from workers.learner.model_shape import ModelShape
from workers.placement import NodePlacement, place
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
class MemoryInputs:
    """Everything a plan is computed from."""

    model: ModelShape
    working_bytes: int
    """Of a weight in the forward pass: 4 in float32, 2 in bfloat16."""
    gpus_per_node: int
    """0 has everything on CPUs; with any, each rank has one and each engine `gpus_per_engine`."""
    num_ranks: int
    num_engines: int
    micro_batch_tokens: int
    """Of the largest micro-batch: the budget, or a single longer row."""
    step_tokens: int
    """Response tokens of a whole step, all ranks together, if every rollout is as long as it may be."""
    lm_head_chunk_tokens: int
    nodes: int = 1
    gpus_per_engine: int = 1
    """Among which the weights of an engine are divided."""
    prefill_tokens: int = 0
    """Of the prompts that an engine takes in together."""
    decoded_sequences: int = 0
    """Rollouts that an engine decodes at the same time."""
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
    """Of an engine on CPUs; on a GPU it gets what is left of the engine's share."""
    gpu_bytes: int = 0
    """Memory of a GPU; 0 where that is not known."""
    gpu_share: float = 0.85
    """Of a GPU's memory, for an engine."""
    longest_row: int = 0
    """Tokens of prompt and rollout together, of which an engine on a GPU must be able to hold one."""
    object_store_bytes: int = 256 * MIB
    learner_process_bytes: int = 1_000 * MIB
    """Python, torch, transformers, DeepSpeed and vLLM's transfer, before a model is loaded."""
    engine_process_bytes: int = 1_400 * MIB
    """Python, torch and vLLM, with what it needs while it runs."""
    other_processes_bytes: int = 1_600 * MIB
    """Controller, verifier and Ray's own."""
    gpu_process_bytes: int = 2 * GIB
    """Context, communication buffers and slack of the allocator on a GPU, per process."""

    @property
    def on_gpu(self) -> bool:
        """Whether ranks and engines have GPUs."""
        return self.gpus_per_node > 0

    @property
    def placement(self) -> tuple[NodePlacement, ...]:
        """Who runs on which node.

        Raises:
            ConfigError: They do not fit.
        """
        return place(
            nodes=self.nodes,
            gpus_per_node=self.gpus_per_node,
            num_ranks=self.num_ranks,
            num_engines=self.num_engines,
            gpus_per_engine=self.gpus_per_engine,
        )


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
    placement: tuple[NodePlacement, ...]
    learner: tuple[Part, ...]
    engine: tuple[Part, ...]
    shared: tuple[Part, ...]

    def on_learner_device(self) -> list[Held]:
        """What a learner rank holds at its peak on its accelerator, or in host memory where there is none."""
        return [Held(part, "learner rank") for part in at_peak(self.learner, Place.device)]

    def on_engine_device(self) -> list[Held]:
        """What an engine holds, likewise, on each of its GPUs."""
        return [Held(part, "engine") for part in at_peak(self.engine, Place.device)]

    def in_engine_share(self) -> list[Held]:
        """What an engine asks for when it starts, likewise; new weights arrive in what it leaves."""
        parts = [part for part in self.engine if Phase.always in part.phases]
        return [Held(part, "engine") for part in at_peak(parts, Place.device)]

    def on_host(self) -> list[Held]:
        """What the processes of the fullest node hold in its memory, each at its own peak."""
        places = (Place.host,) if self.inputs.on_gpu else (Place.device, Place.host)
        learner, engine, shared = (at_peak(parts, *places) for parts in (self.learner, self.engine, self.shared))
        nodes = (
            [
                *(Held(part, "learner rank", len(node.learner_ranks)) for part in learner),
                *(Held(part, "engine", len(node.engines)) for part in engine),
                *(Held(part, "run") for part in shared),
            ]
            for node in self.placement
        )
        return max(nodes, key=total)

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
        """All processes of the fullest node in its memory."""
        return total(self.on_host())

    @property
    def disk(self) -> int:
        """On the disk of the fullest node, its ranks together."""
        return max(len(node.learner_ranks) for node in self.placement) * peak(self.learner, Place.disk)


def at_peak(parts: Sequence[Part], *places: Place) -> list[Part]:
    """The parts held at once: those that are always there and those of the phase that needs most."""
    here = [part for part in parts if part.place in places]
    phases = [[part for part in here if phase in part.phases or Phase.always in part.phases] for phase in Phase]
    return max(phases, key=lambda held: sum(part.bytes for part in held))


def peak(parts: Sequence[Part], *places: Place) -> int:
    """Bytes held at once."""
    return sum(part.bytes for part in at_peak(parts, *places))


def total(held: Iterable[Held]) -> int:
    """Bytes of them all."""
    return sum(each.bytes for each in held)


def plan_memory(inputs: MemoryInputs) -> MemoryPlan:
    """The plan of a run.

    Raises:
        ConfigError: Its ranks and engines do not fit its nodes.
    """
    return MemoryPlan(
        inputs,
        inputs.placement,
        learner=tuple(part for part in _learner_parts(inputs) if part.bytes),
        engine=tuple(part for part in _engine_parts(inputs) if part.bytes),
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
    yield Part("process", inputs.gpus_per_engine * inputs.engine_process_bytes, place=Place.host)
    fixed = [Part("weights", -(-model.parameters // inputs.gpus_per_engine) * working)]
    cache = inputs.kv_cache_bytes
    if inputs.on_gpu:
        # Of one layer at a time: hidden states, queries, keys and values, gate and up. On CPUs it is in the process.
        width = 4 * model.hidden + (model.num_heads + 2 * model.num_kv_heads) * model.head_dim + 3 * model.intermediate
        fixed += [
            Part("CUDA and NCCL", inputs.gpu_process_bytes),
            Part("prompts on their way in", inputs.prefill_tokens * width * working),
            Part("logits of a decoded token", inputs.decoded_sequences * model.vocabulary * 3 * FLOAT32),
        ]
        per_token = 2 * model.num_layers * model.num_kv_heads * model.head_dim * working
        row = inputs.longest_row * -(-per_token // inputs.gpus_per_engine)
        left = int(inputs.gpu_share * inputs.gpu_bytes) - sum(part.bytes for part in fixed)
        cache = max(left, row)
    yield from fixed
    yield Part("KV cache", cache)
    yield Part("transfer buffer", max(BUCKET_BYTES, model.largest_parameter * working), (Phase.sync,))


def _place(device: OffloadDevice) -> Place:
    return {
        OffloadDevice.none: Place.device,
        OffloadDevice.cpu: Place.host,
        OffloadDevice.nvme: Place.disk,
    }[device]
