"""The memory plan of a run, printed and checked before anything is allocated."""

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
from launch.memory_advice import Limits, gib, shortage
from launch.nvidia import installed_gpus
from launch.submit.config import SubmittedConfig
from workers.controller.config import TrainConfig
from workers.controller.console import RunConsole
from workers.learner.engine import REDUCE_BUCKET_ELEMENTS
from workers.learner.lora import adapter_parameters
from workers.learner.memory_plan import (
    GIB,
    MAX_LIVE_ELEMENTS,
    MIB,
    PREFETCH_ELEMENTS,
    MemoryInputs,
    MemoryPlan,
    Place,
    plan_memory,
)
from workers.learner.model_shape import model_shape
from workers.warm_start.config import WarmStartModelConfig
from workers.warm_start.make import model_config
from workers.warm_start.tokenizer import byte_tokenizer

PREFILL_TOKENS = 8192
"""Of prompts that vLLM takes in together on a GPU; 8,192 is its default for the larger ones."""

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
    plan, limits = planned_memory(config)
    shown = console.console
    if not shown.is_terminal:  # a pipe has no width: do not fold the table for it
        shown = Console(width=120, quiet=shown.quiet)
    shown.print(table(plan, limits))
    if trouble := shortage(plan, limits):
        raise ConfigError(trouble)
    return plan


def planned_memory(config: TrainConfig) -> tuple[MemoryPlan, Limits]:
    """What the run will need, and what there is.

    Raises:
        ConfigError: GPUs are said to have memory, and there are to be none.
        ModelError: The model's configuration cannot be read.
    """
    limits = memory_limits(config)
    return plan_memory(memory_inputs(config, architecture_of(config), gpu_bytes=limits.device or 0)), limits


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


def memory_inputs(config: TrainConfig, architecture: Any, *, gpu_bytes: int = 0) -> MemoryInputs:
    """What the plan is computed from; `gpu_bytes` is the memory of a GPU, where known.

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
        gpus_per_node=config.cluster.num_gpus,
        num_ranks=learner.num_ranks,
        num_engines=rollout.num_workers,
        micro_batch_tokens=max(learner.tokens_per_micro_batch, rollout.max_model_len),
        step_tokens=rollout.prompts_per_step * rollout.group_size * rollout.max_new_tokens,
        lm_head_chunk_tokens=learner.lm_head_chunk_tokens,
        nodes=config.nodes,
        gpus_per_engine=rollout.tensor_parallel_size,
        gpu_bytes=gpu_bytes,
        gpu_share=rollout.gpu_memory_utilization,
        longest_row=rollout.max_model_len,
        prefill_tokens=PREFILL_TOKENS,
        decoded_sequences=rollout.max_num_seqs,
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


def memory_limits(config: TrainConfig) -> Limits:
    """What there is: as configured, or as this machine has it, which a run with GPUs can not exceed.

    Raises:
        ConfigError: GPUs are said to have memory, and there are to be none.
    """
    cluster = config.cluster
    if cluster.gpu_memory_gib and not cluster.num_gpus:
        raise ConfigError(
            f"cluster.gpu_memory_gib={cluster.gpu_memory_gib:g} with cluster.num_gpus=0: without GPUs, learners and "
            "engines run in host memory. Set cluster.num_gpus to the GPUs of a node, or cluster.gpu_memory_gib to 0."
        )
    configured = int(cluster.gpu_memory_gib * GIB), int(cluster.host_memory_gib * GIB)
    if config.dry_run and (cluster.num_gpus or isinstance(cluster, SubmittedConfig)):  # for other machines
        return Limits(configured[0] or None, configured[1] or None)
    host = configured[1] or available_host_bytes()
    if not cluster.num_gpus:
        return Limits(None, host)
    sizes = [size for size in (configured[0], smallest_gpu_bytes()) if size]
    return Limits(min(sizes, default=None), host)


def smallest_gpu_bytes() -> int | None:
    """Memory of the smallest GPU here; None where there is none, or its memory is not known."""
    found, _ = installed_gpus()
    return min((gpu.memory_mib * MIB for gpu in found if gpu.memory_mib), default=None)


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
        f"{inputs.num_engines} engines, {inputs.nodes} node{'s' if inputs.nodes > 1 else ''}, micro-batches of "
        f"{inputs.micro_batch_tokens:,} tokens"
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
                owner, part.name, ", ".join(phase.value for phase in part.phases), where.value, gib(part.bytes)
            )
        if small:
            shown.add_row(owner, f"{len(small)} smaller parts", "", "", gib(sum(part.bytes for part in small)))
        shown.add_section()
    if inputs.on_gpu:
        shown.add_row("learner rank", "peak", "", "GPU", _against(plan.learner_device, limits.device))
        shown.add_row("engine", "peak", "", "GPU", _against(plan.engine_device, limits.device))
    host = "fullest node" if inputs.nodes > 1 else "host"
    shown.add_row(host, "all its processes", "", "host", _against(plan.host, limits.host))
    if plan.disk:
        shown.add_row(host, "all its ranks, on one disk", "", "disk", gib(plan.disk))
    return shown


def _against(size: int, limit: int | None) -> str:
    return gib(size) if limit is None else f"{gib(size)} of {gib(limit)}"
