"""Several ranks share one long sequence (Ulysses: arXiv:2309.14509, as DeepSpeed implements it).

A group of n ranks holds the same rows. Each computes every layer for its n-th part of the tokens; inside attention the
parts are exchanged for heads, so that each rank sees the whole sequence in an n-th of the heads. What the policy says
of the targets is gathered at the end: above `Policy` all ranks of a group hold the same tokens, in whole rows, and sums
over the data go over one rank of each group.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from delta.data.micro_batch import MicroBatch
from delta.errors import ConfigError
from workers.learner import attention

SHARED_ATTENTION = "packed_rows_shared"
"""The value for `attn_implementation` where ranks share a sequence."""


@dataclass(frozen=True, slots=True)
class SequenceGroup:
    """The ranks that share a sequence, seen from one of them."""

    group: Any
    size: int
    rank: int

    def part(self, micro_batch: MicroBatch) -> tuple[slice, Tensor, list[int]]:
        """This rank's positions, the places (S',) of its targets among all, and how many targets each rank has."""
        width = micro_batch.token_ids.shape[1] // self.size
        owners = micro_batch.predictors // width
        counts = torch.bincount(owners, minlength=self.size).tolist()
        first = sum(counts[: self.rank])
        targets = torch.arange(first, first + counts[self.rank], device=owners.device)
        return slice(self.rank * width, (self.rank + 1) * width), targets, counts

    def gather(self, values: Tensor, counts: list[int]) -> Tensor:
        """Rows of all ranks in order; the gradient of this rank's rows comes back.

        All ranks of the group compute the same loss from them, so no sum over the ranks is needed.
        """
        gathered: Tensor = _Gather.apply(values, counts, self)
        return gathered


class _Gather(torch.autograd.Function):
    """Concatenate rows over the ranks of a group, which differ in number."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, counts: list[int], ranks: SequenceGroup) -> Tensor:
        first = sum(counts[: ranks.rank])
        ctx.place = slice(first, first + counts[ranks.rank])
        padded = values.new_zeros(max(counts), *values.shape[1:])
        padded[: len(values)] = values
        parts = [torch.empty_like(padded) for _ in range(ranks.size)]
        torch.distributed.all_gather(parts, padded, group=ranks.group)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        return gradient[ctx.place], None, None


def share_sequences(config: Any, size: int) -> SequenceGroup:
    """Let each `size` neighbouring ranks share their sequences; all ranks call it, once, after they have met.

    Args:
        config: Of the model, from transformers.
        size: Divides the number of ranks.

    Raises:
        ConfigError: The model's heads cannot be dealt to so many ranks.
    """
    from deepspeed.runtime.sequence_parallel import parallel_state_sp
    from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPAttentionHF
    from transformers import AttentionInterface

    heads, key_value_heads = config.num_attention_heads, config.num_key_value_heads
    if heads % size or (key_value_heads % size and size % key_value_heads):
        raise ConfigError(
            f"learner.sequence_parallel={size}: the model has {heads} attention heads and {key_value_heads} key-value "
            "heads; expected a divisor of the first that divides the second or is a multiple of it."
        )
    parallel_state_sp.initialize_sequence_parallel(sequence_parallel_size=size)
    group = parallel_state_sp.get_sequence_parallel_group()
    shared = UlyssesSPAttentionHF(
        attn=attention.uncompiled_attention(),
        batch_size=1,
        attn_head_count=heads,
        attn_head_size=getattr(config, "head_dim", None) or config.hidden_size // heads,
        kv_head_count=key_value_heads,
        num_hidden_layers=config.num_hidden_layers,
        process_group=group,
        seq_length_is_variable=True,
    )
    AttentionInterface.register(SHARED_ATTENTION, shared)
    return SequenceGroup(group, size, torch.distributed.get_rank(group))
