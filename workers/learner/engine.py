"""DeepSpeed set-up: one ZeRO-3 engine per rank around the policy."""

import contextlib
import io
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from workers.learner.config import LearnerConfig
from workers.learner.policy import Policy


def join_ranks(*, rank: int, world_size: int, address: str, port: int, timeout_s: float) -> None:
    """Make this process a rank of the learner group, over gloo."""
    from datetime import timedelta

    import deepspeed

    # DeepSpeed would compile a shared-memory collective here, which needs a C++ compiler and half a minute.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        MASTER_ADDR=address,
        MASTER_PORT=str(port),
    )
    deepspeed.init_distributed(dist_backend="gloo", timeout=timedelta(seconds=timeout_s), verbose=False)


def create_engine(policy: Policy, config: LearnerConfig) -> Any:
    """Partition the policy over the ranks and attach AdamW.

    Gradients of any number of micro-batches accumulate until `engine.step()`; DeepSpeed divides their sum over ranks
    by the number of ranks, which the caller's loss has to undo.
    """
    import deepspeed
    from deepspeed.utils import set_z3_leaf_modules

    set_z3_leaf_modules(policy, decoder_layer_types(policy.causal_lm))
    optimizer = torch.optim.AdamW(
        policy.parameters(),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.adam_eps,
        weight_decay=config.weight_decay,
        fused=True,
    )
    with contextlib.redirect_stdout(io.StringIO()):  # DeepSpeed prints its banner whatever the log level
        engine, *_ = deepspeed.initialize(model=policy, optimizer=optimizer, config=deepspeed_config(config))
    return engine


def create_reference(policy: Policy, config: LearnerConfig) -> Any:
    """Partition a policy that is only asked, never trained."""
    import deepspeed
    from deepspeed.utils import set_z3_leaf_modules

    set_z3_leaf_modules(policy, decoder_layer_types(policy.causal_lm))
    policy.requires_grad_(False)
    with contextlib.redirect_stdout(io.StringIO()):
        engine, *_ = deepspeed.initialize(model=policy, config=deepspeed_config(config))
    engine.eval()
    return engine


@contextlib.contextmanager
def whole_lm_head(engine: Any) -> Iterator[None]:
    """All ranks hold the whole LM head of a ZeRO-3 engine while this lasts, so that `Policy.logits` can be called."""
    import deepspeed

    head = engine.module.causal_lm.get_output_embeddings()
    with deepspeed.zero.GatheredParameters(list(head.parameters(recurse=False))):
        yield


def deepspeed_config(config: LearnerConfig) -> dict[str, Any]:
    """DeepSpeed's own configuration for a `LearnerConfig`."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        # Rows decide how many micro-batches an update has, so the update's end is ours to declare.
        "managed_gradient_accumulation": False,
        "gradient_clipping": config.max_grad_norm,
        "zero_optimization": {
            "stage": 3,
            "overlap_comm": False,
            "stage3_param_persistence_threshold": config.persistence_threshold,
        },
        # Plain AdamW instead of DeepSpeed's CPU Adam, which would have to be compiled.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def decoder_layer_types(causal_lm: Any) -> list[type[nn.Module]]:
    """Classes of the blocks that ZeRO-3 gathers whole: one collective per decoder layer instead of one per matrix."""
    names = set(causal_lm._no_split_modules or ())
    return list({type(module) for module in causal_lm.modules() if type(module).__name__ in names})
