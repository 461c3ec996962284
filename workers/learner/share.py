"""This rank's part of the work: rows of the global batch as micro-batches, with per-token data of the same order."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from delta.data.micro_batch import MicroBatch, pack_rows, pad_rows, response_index, row_index
from delta.data.partition import RowCost, partition_rows
from delta.tokens import OldTokens
from delta.types import TrainBatch
from workers.learner.config import LearnerConfig
from workers.learner.data_ranks import DataRanks


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """This rank's part of one micro-batch."""

    micro_batch: MicroBatch
    rows: Tensor
    """(S,) which of its rows each token is in."""
    places: Tensor
    """(S,) of its tokens among the response tokens of the global batch."""
    advantages: Tensor
    """(S,) of each token's rollout."""
    loss_mask: Tensor
    """(S,) bool"""
    rollout_log_probs: Tensor
    """(S,)"""

    def tokens(self, *, log_probs: Tensor, entropy: Tensor, ref_log_probs: Tensor | None) -> OldTokens:
        """The share's tokens with what the old policy says of them."""
        return OldTokens(
            rows=self.rows,
            places=self.places,
            advantages=self.advantages,
            loss_mask=self.loss_mask,
            rollout_log_probs=self.rollout_log_probs,
            log_probs=log_probs,
            entropy=entropy,
            ref_log_probs=ref_log_probs,
        )


def shares(
    batch: TrainBatch,
    config: LearnerConfig,
    *,
    group_size: int,
    ranks: DataRanks,
    cost: RowCost,
    device: torch.device,
) -> list[list[Share]]:
    """This rank's micro-batches, by optimizer step; as many as every other rank has.

    Args:
        batch: The global batch, the same on every rank.
        config: Decides the number of optimizer steps, and form and size of micro-batches.
        group_size: G, rows per group.
        ranks: Who shares the work.
        cost: Of a row, for even shares.
        device: Where the tensors go. All of a step at once: some fifty bytes for a token.
    """
    partition = partition_rows(
        # A row's last token is a target and no input.
        batch.row_lengths - 1,
        updates=config.updates_per_step,
        group_size=group_size,
        ranks=ranks.size,
        token_budget=config.tokens_per_micro_batch,
        packed=config.packing,
        cost=cost,
    )
    return [
        [_share(batch, rows, config, device) for rows in per_rank[ranks.rank]] for per_rank in partition.micro_batches
    ]


def _share(batch: TrainBatch, rows: Sequence[int], config: LearnerConfig, device: torch.device) -> Share:
    places = response_index(batch, rows)
    owners = row_index(batch, rows)
    packed = pack_rows(batch, rows, multiple_of=config.sequence_parallel) if config.packing else pad_rows(batch, rows)
    return Share(
        micro_batch=packed.to(device),
        rows=torch.from_numpy(owners).to(device),
        places=torch.from_numpy(places).to(device),
        advantages=torch.from_numpy(batch.advantages[list(rows)])[owners].to(device),
        loss_mask=torch.from_numpy(batch.loss_mask[places]).to(device),
        rollout_log_probs=torch.from_numpy(batch.rollout_log_probs[places]).to(device),
    )
