"""DeepSpeed set-up: one ZeRO-3 engine per rank around the policy."""

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import nn

from delta.errors import ConfigError
from workers.addresses import rendezvous_store
from workers.learner.config import LearnerConfig, OffloadConfig, OffloadDevice
from workers.learner.policy import Policy

REDUCE_BUCKET_ELEMENTS = 50_000_000
"""Gradients that are reduced together; DeepSpeed's default of ten times that is a float32 buffer of 2 GB."""


def join_ranks(*, rank: int, world_size: int, address: str, port: int, timeout_s: float) -> None:
    """Make this process a rank of the learner group: over gloo, and over NCCL for what is on a GPU."""
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    on_gpu = get_accelerator().device_name() == "cuda"

    # DeepSpeed would compile a shared-memory collective here, which needs a C++ compiler and half a minute.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK="0",  # a rank sees one GPU, wherever it is
        WORLD_SIZE=str(world_size),
        MASTER_ADDR=address,
        MASTER_PORT=str(port),
    )
    # Counts and other small sums stay on the CPU, and need gloo there.
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    timeout = timedelta(seconds=timeout_s)
    if on_gpu:
        get_accelerator().set_device(0)
    if not torch.distributed.is_initialized():  # the ranks of a group may be given another model
        store = rendezvous_store(address=address, port=port, rank=rank, world_size=world_size, timeout_s=timeout_s)
        torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    deepspeed.init_distributed(dist_backend=backend, timeout=timeout, verbose=False)


def create_engine(policy: Policy, config: LearnerConfig) -> Any:
    """Partition the policy over the ranks and attach AdamW.

    Gradients of any number of micro-batches accumulate until `engine.step()`; DeepSpeed divides their sum over ranks
    by the number of ranks, which the caller's loss has to undo.
    """
    import deepspeed
    from deepspeed.utils import set_z3_leaf_modules

    set_z3_leaf_modules(policy, decoder_layer_types(policy.causal_lm))
    settings = deepspeed_config(config, dtype=working_dtype(policy))
    with contextlib.redirect_stdout(io.StringIO()):  # DeepSpeed prints its banner whatever the log level
        engine, *_ = deepspeed.initialize(model=policy, optimizer=adamw(policy, config), config=settings)
    if config.compile:
        compile_layers(policy.causal_lm)
    return engine


def adamw(policy: Policy, config: LearnerConfig) -> Any:
    """AdamW: torch's, or DeepSpeed's for the CPU where a GPU learner offloads the optimizer and it can be built."""
    settings: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": (config.beta1, config.beta2),
        "eps": config.adam_eps,
        "weight_decay": config.weight_decay,
    }
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    from deepspeed.accelerator import get_accelerator

    on_gpu = get_accelerator().device_name() != "cpu"
    if on_gpu and config.offload.optimizer is not OffloadDevice.none and can_build_cpu_adam():
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        return DeepSpeedCPUAdam(trained, adamw_mode=True, **settings)
    return torch.optim.AdamW(trained, fused=True, **settings)


def check_learner(config: LearnerConfig, *, on_this_machine: bool = True) -> None:
    """Refuse what cannot be done, before anything is started.

    Args:
        config: The learner's.
        on_this_machine: Ask for what it needs here as well, and make its folder for NVMe; without, nothing is written.

    Raises:
        ConfigError: DeepSpeed settings with another owner; NVMe without asynchronous files or a folder that can be
            written; compilation without a compiler.
    """
    check_pass_through(config.deepspeed)
    if not on_this_machine:
        return
    compiler = os.environ.get("CXX", "g++")
    if config.compile and shutil.which(compiler) is None:
        raise ConfigError(
            f"learner.compile=true needs a C++ compiler, and {compiler} is not found. Install g++, name another one in "
            "CXX, or leave compilation off."
        )
    if not config.offload.uses_nvme:
        return
    if not can_build_async_io():
        raise ConfigError(
            "learner.offload: nvme needs DeepSpeed's async_io, which cannot be built here. Install libaio with its "
            "headers (libaio-dev), a C++ compiler and ninja; or keep it in host memory: learner.offload.optimizer=cpu."
        )
    try:
        Path(config.offload.nvme_path).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=config.offload.nvme_path):
            pass
    except OSError as error:
        raise ConfigError(
            f"learner.offload.nvme_path={config.offload.nvme_path} cannot be written: {error}. Expected a folder on a "
            "local disk."
        ) from error


def can_build_async_io() -> bool:
    """Whether DeepSpeed's asynchronous files can be compiled here."""
    from deepspeed.accelerator import get_accelerator

    return _can_compile() and bool(get_accelerator().create_op_builder("AsyncIOBuilder").is_compatible())


def _can_compile() -> bool:
    return shutil.which("ninja") is not None and shutil.which("g++") is not None


def can_build_cpu_adam() -> bool:
    """Whether DeepSpeed's Adam for the CPU can be compiled here."""
    from deepspeed.ops.op_builder import CPUAdamBuilder

    return _can_compile() and bool(CPUAdamBuilder().is_compatible())


def compile_layers(causal_lm: Any) -> None:
    """Compile the decoder layers, for any number of tokens; in place.

    Only `forward` is compiled, not the call: ZeRO-3's hooks, which gather and release the parameters, stay outside, so
    the compiled code sees whole parameters like any other.
    """
    kinds = tuple(decoder_layer_types(causal_lm))
    for module in causal_lm.modules():
        if isinstance(module, kinds):
            module.forward = torch.compile(module.forward, dynamic=True)


def create_reference(policy: Policy, config: LearnerConfig) -> Any:
    """Partition a policy that is only asked, never trained."""
    import deepspeed
    from deepspeed.utils import set_z3_leaf_modules

    set_z3_leaf_modules(policy, decoder_layer_types(policy.causal_lm))
    policy.requires_grad_(False)
    with contextlib.redirect_stdout(io.StringIO()):
        engine, *_ = deepspeed.initialize(model=policy, config=deepspeed_config(config, dtype=working_dtype(policy)))
    engine.eval()
    return engine


@contextlib.contextmanager
def whole_lm_head(engine: Any) -> Iterator[None]:
    """All ranks hold the whole LM head of a ZeRO-3 engine while this lasts, so that `Policy.logits` can be called."""
    import deepspeed

    head = engine.module.causal_lm.get_output_embeddings()
    with deepspeed.zero.GatheredParameters(list(head.parameters(recurse=False))):
        yield


def working_dtype(policy: Policy) -> torch.dtype:
    """The precision of the forward pass: that of the weights as they were loaded."""
    return next(policy.parameters()).dtype


def deepspeed_config(config: LearnerConfig, *, dtype: torch.dtype) -> dict[str, Any]:
    """DeepSpeed's own configuration for a `LearnerConfig`.

    With bfloat16 weights the optimizer holds float32 master weights and moments, micro-batches are added up in float32,
    and so are ranks: none of the last two is DeepSpeed's default.

    Args:
        config: The learner's.
        dtype: Of the weights.

    Raises:
        ConfigError: `config.deepspeed` sets what is decided elsewhere.
    """
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        # Rows decide how many micro-batches an update has, so the update's end is ours to declare.
        "managed_gradient_accumulation": False,
        "gradient_clipping": config.max_grad_norm,
        "bf16": {"enabled": dtype is torch.bfloat16},
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": {
            "stage": 3,
            "overlap_comm": False,
            "reduce_bucket_size": REDUCE_BUCKET_ELEMENTS,
            "stage3_param_persistence_threshold": config.persistence_threshold,
            **_offload(config.offload),
        },
        # Plain AdamW instead of DeepSpeed's CPU Adam, which would have to be compiled.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    check_pass_through(config.deepspeed)
    return _merged(settings, config.deepspeed)


def _offload(config: OffloadConfig) -> dict[str, Any]:
    parts = {"offload_optimizer": config.optimizer, "offload_param": config.parameters}
    place = {"nvme_path": config.nvme_path} if config.nvme_path else {}
    return {
        name: {"device": device.value, "pin_memory": config.pin_memory, **place}
        for name, device in parts.items()
        if device is not OffloadDevice.none
    }


OWNED = {
    "train_batch_size": "rollout.prompts_per_step and learner.updates_per_step",
    "train_micro_batch_size_per_gpu": "learner.tokens_per_micro_batch",
    "gradient_accumulation_steps": "learner.tokens_per_micro_batch",
    "managed_gradient_accumulation": "the learner itself",
    "gradient_clipping": "learner.max_grad_norm",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
    "torch_autocast": "model.dtype",
    "communication_data_type": "the learner itself: gradients are reduced in float32",
    "data_types": "the learner itself: gradients are accumulated in float32",
    "prescale_gradients": "the learner itself: its loss counts on how ranks are averaged",
    "gradient_predivide_factor": "the learner itself: its loss counts on how ranks are averaged",
    "optimizer": "learner.learning_rate, learner.beta1 and their neighbours",
    "scheduler": "learner.learning_rate",
    "sequence_parallel_size": "learner.sequence_parallel",
    "compile": "learner.compile",
    "zero_allow_untested_optimizer": "the learner itself",
    "zero_force_ds_cpu_optimizer": "the learner itself",
    "zero_optimization.stage": "the learner itself: weights are sent from ZeRO-3 shards",
    "zero_optimization.stage3_param_persistence_threshold": "learner.persistence_threshold",
    "zero_optimization.offload_optimizer.device": "learner.offload.optimizer",
    "zero_optimization.offload_optimizer.nvme_path": "learner.offload.nvme_path",
    "zero_optimization.offload_optimizer.pin_memory": "learner.offload.pin_memory",
    "zero_optimization.offload_param.device": "learner.offload.parameters",
    "zero_optimization.offload_param.nvme_path": "learner.offload.nvme_path",
    "zero_optimization.offload_param.pin_memory": "learner.offload.pin_memory",
}
"""DeepSpeed's settings that this project decides, and by what."""


def check_pass_through(settings: Mapping[str, Any], *, prefix: str = "") -> None:
    """Refuse settings for DeepSpeed that have another owner.

    Raises:
        ConfigError: One has; the message says who.
    """
    for name, value in settings.items():
        path = f"{prefix}{name}"
        if path in OWNED:
            raise ConfigError(
                f"learner.deepspeed.{path}={value}: expected only what nothing else decides; this is decided by "
                f"{OWNED[path]}. Leave it out here."
            )
        if isinstance(value, Mapping):
            check_pass_through(value, prefix=f"{path}.")


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the leaves of `over` in place of its own."""
    merged = dict(base)
    for name, value in over.items():
        below = base.get(name)
        merged[name] = _merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def decoder_layer_types(causal_lm: Any) -> list[type[nn.Module]]:
    """Classes of the blocks that ZeRO-3 gathers whole: one collective per decoder layer instead of one per matrix."""
    names = set(causal_lm._no_split_modules or ())
    return list({type(module) for module in causal_lm.modules() if type(module).__name__ in names})
