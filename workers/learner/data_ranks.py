"""Over whom data is split, and sums over all of it."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor


@dataclass(frozen=True, slots=True)
class DataRanks:
    """The ranks that hold different rows; each stands for a group of ranks where those share sequences."""

    rank: int
    size: int
    group: Any = None
    """Process group; None for all ranks."""

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over the ranks; writes into its argument."""
        torch.distributed.all_reduce(tensor, group=self.group)
        return tensor

    def max(self, tensor: Tensor) -> Tensor:
        """Maximum over the ranks; writes into its argument."""
        torch.distributed.all_reduce(tensor, op=torch.distributed.ReduceOp.MAX, group=self.group)
        return tensor


def data_ranks(*, sequence_parallel: int = 1) -> DataRanks:
    """The ranks of this process group that hold other rows than this one; all ranks call it, after they have met."""
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    if sequence_parallel == 1:
        return DataRanks(rank, world_size)
    groups = [
        torch.distributed.new_group(list(range(first, world_size, sequence_parallel)))
        for first in range(sequence_parallel)
    ]
    return DataRanks(rank // sequence_parallel, world_size // sequence_parallel, groups[rank % sequence_parallel])
