"""What a run that does not fit into memory could change, and by how much it would help."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from delta.errors import ConfigError
from workers.learner.config import OffloadDevice
from workers.learner.memory_plan import GIB, Held, MemoryInputs, MemoryPlan, Phase, plan_memory, total


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes there are; None where that is not known."""

    device: int | None
    host: int | None


def shortage(plan: MemoryPlan, limits: Limits) -> str | None:
    """What does not fit, what is largest in it, and what would help by how much; None if all fits."""
    share = plan.inputs.gpu_share
    needs: list[tuple[str, Callable[[MemoryPlan], list[Held]], int | None]] = [
        ("a learner rank on its GPU", MemoryPlan.on_learner_device, limits.device),
        (
            f"an engine within its share of a GPU (rollout.gpu_memory_utilization={share:g})",
            MemoryPlan.in_engine_share,
            limits.device and int(share * limits.device),
        ),
        ("an engine on its GPU", MemoryPlan.on_engine_device, limits.device),
        (f"all processes on {_host(plan)}", MemoryPlan.on_host, limits.host),
    ]
    for what, held, limit in needs:
        needed = total(held(plan))
        if limit is None or needed <= limit:
            continue
        largest = max(held(plan), key=lambda part: part.bytes)
        savings = sorted(
            ((needed - total(held(plan_memory(inputs))), text) for text, inputs in changes(plan.inputs)),
            key=lambda pair: -pair[0],
        )
        helpful = "; ".join(f"{text} saves {gib(saved)} GiB" for saved, text in savings[:5] if saved > limit // 200)
        return (
            f"memory: {what} needs {gib(needed)} GiB, and there are {gib(limit)} GiB. The largest part is "
            f"{_described(largest)}. What would help: {helpful or 'a smaller model, or more memory'}."
        )
    return None


def _host(plan: MemoryPlan) -> str:
    return "this host" if plan.inputs.nodes == 1 else f"the fullest of {plan.inputs.nodes} nodes"


def _described(held: Held) -> str:
    part = held.part
    when = "" if Phase.always in part.phases else f" ({', '.join(phase.value for phase in part.phases)})"
    owners = "" if held.count == 1 else f" in each of {held.count} {held.owner}s"
    return f"{part.name}{when}, {gib(part.bytes)} GiB{owners}"


def changes(inputs: MemoryInputs) -> list[tuple[str, MemoryInputs]]:
    """Settings that would need less, one at a time; each leaves a configuration that is accepted."""
    found = []

    def add(text: str, **changed: object) -> None:
        found.append((text, replace(inputs, **changed)))  # type: ignore[arg-type]

    if not inputs.gradient_checkpointing:
        add("learner.gradient_checkpointing=true", gradient_checkpointing=True)
    half = inputs.micro_batch_tokens // 2
    add(
        f"learner.tokens_per_micro_batch={half} (and rollout.max_model_len no longer than that)",
        micro_batch_tokens=half,
        longest_row=min(inputs.longest_row, half),
    )
    if inputs.lm_head_chunk_tokens > 256:
        add("learner.lm_head_chunk_tokens=256", lm_head_chunk_tokens=256)
    if inputs.offload_optimizer is OffloadDevice.none and inputs.on_gpu:
        add("learner.offload.optimizer=cpu", offload_optimizer=OffloadDevice.cpu)
    if inputs.offload_optimizer is not OffloadDevice.nvme:
        add(
            "learner.offload.optimizer=nvme learner.offload.nvme_path=DIR",
            offload_optimizer=OffloadDevice.nvme,
        )
    if inputs.offload_parameters is OffloadDevice.none and inputs.on_gpu:
        add("learner.offload.parameters=cpu", offload_parameters=OffloadDevice.cpu)
    if inputs.on_gpu:
        ranks, nodes = 2 * inputs.num_ranks, 2 * inputs.nodes
        if _fit(replace(inputs, num_ranks=ranks)):
            add(f"learner.num_ranks={ranks}", num_ranks=ranks)
        else:
            add(f"nodes={nodes} learner.num_ranks={ranks}", nodes=nodes, num_ranks=ranks)
        gpus = 2 * inputs.gpus_per_engine
        if _fit(replace(inputs, gpus_per_engine=gpus)) and inputs.model.num_kv_heads % gpus == 0:
            add(f"rollout.tensor_parallel_size={gpus}", gpus_per_engine=gpus)
        shared = 2 * inputs.sequence_parallel
        if _can_share(inputs, shared):
            add(f"learner.sequence_parallel={shared}", sequence_parallel=shared)
    elif inputs.num_ranks > 1:
        alone = "" if inputs.sequence_parallel == 1 else " learner.sequence_parallel=1"
        add(f"learner.num_ranks=1{alone}", num_ranks=1, sequence_parallel=1)
    live = inputs.model.largest_group
    if inputs.max_live_elements > live:
        add(f"+learner.deepspeed.zero_optimization.stage3_max_live_parameters={live}", max_live_elements=live)
    if inputs.proxy_bytes == 4:
        add("credit.cache_dtype=bfloat16", proxy_bytes=2)
    if inputs.keeps_head_sums:
        add("credit.proxy=row", keeps_head_sums=False)
    if inputs.has_reference:
        add("regularization.kl=0", has_reference=False)
    if inputs.num_engines > 1 and not inputs.on_gpu:
        add("rollout.num_workers=1", num_engines=1)
    if inputs.kv_cache_bytes > GIB and not inputs.on_gpu:
        fewer = inputs.kv_cache_bytes // GIB // 2
        add(f"rollout.kv_cache_gib={fewer}", kv_cache_bytes=fewer * GIB)
    if inputs.working_bytes == 4:
        proxy = min(inputs.proxy_bytes, 2)
        add("model.dtype=bfloat16", working_bytes=2, proxy_bytes=proxy)
    return found


def _fit(inputs: MemoryInputs) -> bool:
    """Whether all ranks and engines have a place."""
    try:
        return bool(inputs.placement)
    except ConfigError:
        return False


def _can_share(inputs: MemoryInputs, size: int) -> bool:
    """Whether `size` ranks may share a sequence: what `LearnerConfig` and `share_sequences` ask for."""
    heads, key_value_heads = inputs.model.num_heads, inputs.model.num_kv_heads
    return (
        inputs.may_share_sequences
        and inputs.num_ranks % size == 0
        and heads % size == 0
        and (key_value_heads % size == 0 or size % key_value_heads == 0)
    )


def gib(size: int) -> str:
    """A size as it is shown."""
    return f"{size / GIB:,.2f}"
