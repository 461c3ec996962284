"""The memory plan of a run, printed and checked before anything is allocated."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, AutoModelForCausalLM

from delta.credit import DiscriminativeConfig
from delta.credit.discriminative import CacheDtype, Proxy
from delta.errors import ConfigError, ModelError
from launch.submit.config import SubmittedConfig
from workers.controller.config import TrainConfig
from workers.controller.console import RunConsole
from workers.learner.config import OffloadDevice
from workers.learner.engine import REDUCE_BUCKET_ELEMENTS
from workers.learner.lora import adapter_parameters
from workers.learner.memory_plan import (
    GIB,
    MAX_LIVE_ELEMENTS,
    MIB,
    PREFETCH_ELEMENTS,
    Held,
    MemoryInputs,
    MemoryPlan,
    Phase,
    Place,
    model_shape,
    plan_memory,
    total,
)
from workers.warm_start.config import WarmStartModelConfig
from workers.warm_start.make import model_config
from workers.warm_start.tokenizer import byte_tokenizer

SMALL = GIB // 50
"""Parts below this are shown as one."""

CGROUP = Path("/sys/fs/cgroup")
CGROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat", ("inactive_file", "active_file")),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        ("total_inactive_file", "total_active_file"),
    ),
)
"""A container's limit, its use, and what of that are cached files, in both versions of control groups."""


def check_memory(config: TrainConfig, console: RunConsole) -> MemoryPlan:
    """Print what the run will need, and refuse it where that is more than there is.

    Raises:
        ConfigError: It will not fit; the message names the largest part and what would help.
    """
    plan = plan_memory(memory_inputs(config, architecture_of(config)))
    limits = memory_limits(config)
    shown = console.console
    if not shown.is_terminal:  # a pipe has no width: do not fold the table for it
        shown = Console(width=120, quiet=shown.quiet)
    shown.print(table(plan, limits))
    if trouble := shortage(plan, limits):
        raise ConfigError(trouble)
    return plan


def architecture_of(config: TrainConfig) -> Any:
    """The Hugging Face configuration of the model.

    Raises:
        ModelError: It cannot be read, or transformers cannot build a causal LM from it.
    """
    if isinstance(config.model, WarmStartModelConfig):
        return model_config(config.model, byte_tokenizer())
    try:
        found = AutoConfig.from_pretrained(config.model.path)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model.path={config.model.path}: no usable config.json ({str(error).splitlines()[0]})."
        ) from error
    if type(found) not in AutoModelForCausalLM._model_mapping:
        raise ModelError(
            f"model.path={config.model.path}: {type(found).__name__} is no causal language model; expected one that "
            "transformers' AutoModelForCausalLM knows."
        )
    return found


def memory_inputs(config: TrainConfig, architecture: Any) -> MemoryInputs:
    """What the plan is computed from.

    A row is at most as long as the engine's context, and a step at most all its rollouts at full length; shorter
    rollouts need less.
    """
    rollout, learner, credit = config.rollout, config.learner, config.credit
    working = getattr(torch, config.model.dtype).itemsize
    proxy = 0
    if isinstance(credit, DiscriminativeConfig):
        proxy = working if credit.cache_dtype is CacheDtype.model else getattr(torch, credit.cache_dtype.value).itemsize
    zero = learner.deepspeed.get("zero_optimization", {})
    return MemoryInputs(
        model=model_shape(architecture),
        working_bytes=working,
        on_gpu=config.cluster.gpu_memory_gib > 0,
        num_ranks=learner.num_ranks,
        num_engines=rollout.num_workers,
        micro_batch_tokens=max(learner.tokens_per_micro_batch, rollout.max_model_len),
        step_tokens=rollout.prompts_per_step * rollout.group_size * rollout.max_new_tokens,
        lm_head_chunk_tokens=learner.lm_head_chunk_tokens,
        gradient_checkpointing=learner.gradient_checkpointing,
        sequence_parallel=learner.sequence_parallel,
        may_share_sequences=learner.packing and not learner.compile,
        offload_optimizer=learner.offload.optimizer,
        offload_parameters=learner.offload.parameters,
        has_reference=config.regularization.kl > 0,
        adapter_parameters=adapter_parameters(architecture, learner.lora) if learner.lora.rank else 0,
        proxy_bytes=proxy,
        keeps_head_sums=isinstance(credit, DiscriminativeConfig) and credit.proxy is Proxy.last_layer,
        device_cache_bytes=int(credit.device_cache_gib * GIB) if isinstance(credit, DiscriminativeConfig) else 0,
        max_live_elements=int(zero.get("stage3_max_live_parameters", MAX_LIVE_ELEMENTS)),
        prefetch_elements=int(zero.get("stage3_prefetch_bucket_size", PREFETCH_ELEMENTS)),
        reduce_bucket_elements=int(zero.get("reduce_bucket_size", REDUCE_BUCKET_ELEMENTS)),
        kv_cache_bytes=rollout.kv_cache_gib * GIB,
        object_store_bytes=config.cluster.object_store_mib * MIB,
    )


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes there are; None where that is not known."""

    device: int | None
    host: int | None


def memory_limits(config: TrainConfig) -> Limits:
    """What there is: as configured, or as this machine has it free.

    Raises:
        ConfigError: A run that is to start counts on a GPU, which none can use yet.
    """
    cluster = config.cluster
    configured = int(cluster.host_memory_gib * GIB) or None
    if not cluster.gpu_memory_gib:
        elsewhere = config.dry_run and isinstance(cluster, SubmittedConfig)
        return Limits(None, configured or (None if elsewhere else available_host_bytes()))
    if not config.dry_run:
        raise ConfigError(
            f"cluster.gpu_memory_gib={cluster.gpu_memory_gib:g} is for planning only: learners and engines of this "
            "version run on the CPU, so they would hold in host memory what the plan counts on a GPU. Set dry_run=true "
            "to plan for a machine with GPUs, or leave it at 0 to train."
        )
    return Limits(int(cluster.gpu_memory_gib * GIB), configured)  # of another machine


def available_host_bytes() -> int:
    """Host memory that is free for this run: the machine's, or what is left of a container's limit.

    Cached files count as free in both: the kernel drops them when memory is wanted.
    """
    available = int(psutil.virtual_memory().available)
    for limit, current, statistics, cached in CGROUP_FILES:
        files = [CGROUP / name for name in (limit, current, statistics)]
        if all(file.is_file() for file in files):
            limit_text, used, lines = (file.read_text().strip() for file in files)
            if limit_text.isdigit():
                counts = dict(line.split() for line in lines.splitlines())
                cache = sum(int(counts.get(name, 0)) for name in cached)
                available = min(available, int(limit_text) - int(used) + cache)
    return max(available, 0)


def table(plan: MemoryPlan, limits: Limits) -> Table:
    """Parts and sums, largest first."""
    inputs = plan.inputs
    shown = Table(
        title=f"Memory plan: {inputs.model.parameters:,} parameters, {inputs.num_ranks} learner ranks, "
        f"{inputs.num_engines} engines, micro-batches of {inputs.micro_batch_tokens:,} tokens"
    )
    shown.add_column("of each")
    shown.add_column("part")
    shown.add_column("when")
    shown.add_column("where")
    shown.add_column("GiB", justify="right")
    for owner, parts in (("learner rank", plan.learner), ("engine", plan.engine), ("run", plan.shared)):
        small = [part for part in parts if part.bytes < SMALL]
        for part in sorted(set(parts) - set(small), key=lambda part: -part.bytes):
            where = Place.host if part.place is Place.device and not inputs.on_gpu else part.place
            shown.add_row(
                owner, part.name, ", ".join(phase.value for phase in part.phases), where.value, _gib(part.bytes)
            )
        if small:
            shown.add_row(owner, f"{len(small)} smaller parts", "", "", _gib(sum(part.bytes for part in small)))
        shown.add_section()
    if inputs.on_gpu:
        shown.add_row("learner rank", "peak", "", "GPU", _against(plan.learner_device, limits.device))
        shown.add_row("engine", "peak", "", "GPU", _against(plan.engine_device, limits.device))
        both = plan.learner_device + plan.engine_device
        shown.add_row("GPU", "both, if they share one", "", "GPU", _against(both, limits.device))
    shown.add_row("host", "all processes, on one host", "", "host", _against(plan.host, limits.host))
    if plan.disk:
        shown.add_row("host", "all ranks, on one disk", "", "disk", _gib(plan.disk))
    return shown


def shortage(plan: MemoryPlan, limits: Limits) -> str | None:
    """What does not fit, what is largest in it, and what would help by how much; None if all fits."""
    needs: list[tuple[str, Callable[[MemoryPlan], list[Held]], int | None]] = [
        ("a learner rank on its GPU", MemoryPlan.on_learner_device, limits.device),
        ("an engine on its GPU", MemoryPlan.on_engine_device, limits.device),
        (
            "all processes on this host" if limits.device is None else "host memory of all processes",
            MemoryPlan.on_host,
            limits.host,
        ),
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
        helpful = "; ".join(f"{text} saves {_gib(saved)} GiB" for saved, text in savings[:5] if saved > limit // 200)
        return (
            f"memory: {what} needs {_gib(needed)} GiB, and there are {_gib(limit)} GiB. The largest part is "
            f"{_described(largest)}. What would help: {helpful or 'a smaller model, or more memory'}."
        )
    return None


def _described(held: Held) -> str:
    part = held.part
    when = "" if Phase.always in part.phases else f" ({', '.join(phase.value for phase in part.phases)})"
    owners = "" if held.count == 1 else f" in each of {held.count} {held.owner}s"
    return f"{part.name}{when}, {_gib(part.bytes)} GiB{owners}"


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
        ranks = 2 * inputs.num_ranks
        add(f"learner.num_ranks={ranks}", num_ranks=ranks)
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
    if inputs.kv_cache_bytes > GIB:
        fewer = inputs.kv_cache_bytes // GIB // 2
        add(f"rollout.kv_cache_gib={fewer}", kv_cache_bytes=fewer * GIB)
    if inputs.working_bytes == 4:
        proxy = min(inputs.proxy_bytes, 2)
        add("model.dtype=bfloat16", working_bytes=2, proxy_bytes=proxy)
    return found


def _can_share(inputs: MemoryInputs, size: int) -> bool:
    """Whether `size` ranks may share a sequence: what `LearnerConfig` and `share_sequences` ask for."""
    heads, key_value_heads = inputs.model.num_heads, inputs.model.num_kv_heads
    return (
        inputs.may_share_sequences
        and inputs.num_ranks % size == 0
        and heads % size == 0
        and (key_value_heads % size == 0 or size % key_value_heads == 0)
    )


def _gib(size: int) -> str:
    return f"{size / GIB:,.2f}"


def _against(size: int, limit: int | None) -> str:
    return _gib(size) if limit is None else f"{_gib(size)} of {_gib(limit)}"
