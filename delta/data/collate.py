"""Scored groups to one training batch."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from delta.types import Rollout, RolloutGroup, TrainBatch


def rewards_of(groups: Sequence[RolloutGroup]) -> tuple[Tensor, Tensor]:
    """Rewards (N, G) float32 and whether each was judged (N, G) bool; an unjudged reward is 0 and must not count."""
    rewards = torch.tensor([[verdict.reward for verdict in group.verdicts] for group in groups], dtype=torch.float32)
    judged = torch.tensor([[verdict.is_judged for verdict in group.verdicts] for group in groups])
    return rewards.masked_fill(~judged, 0.0), judged


def collate(groups: Sequence[RolloutGroup], advantages: Tensor) -> TrainBatch:
    """Lay out all rollouts of a step row after row.

    Args:
        groups: N groups of G rollouts.
        advantages: (N, G), see `delta.advantages`.

    Returns:
        The batch; row n * G + g is rollout g of group n.
    """
    pieces: list[NDArray[np.int32]] = []
    row_lengths: list[int] = []
    prompt_lengths: list[int] = []
    rollouts: list[Rollout] = []
    for group in groups:
        prompt_ids = np.asarray(group.prompt.token_ids, dtype=np.int32)
        for rollout in group.rollouts:
            pieces += [prompt_ids, rollout.token_ids]
            row_lengths.append(len(prompt_ids) + len(rollout.token_ids))
            prompt_lengths.append(len(prompt_ids))
            rollouts.append(rollout)
    rollout_log_probs = np.concatenate([rollout.rollout_log_probs for rollout in rollouts])
    return TrainBatch(
        token_ids=np.concatenate(pieces),
        offsets=np.concatenate([[0], np.cumsum(row_lengths)]).astype(np.int64),
        prompt_lengths=np.asarray(prompt_lengths, dtype=np.int64),
        rollout_log_probs=rollout_log_probs,
        advantages=advantages.flatten().numpy().astype(np.float32),
        loss_mask=np.ones(len(rollout_log_probs), dtype=np.bool_),
    )
