"""Scored groups to one training batch, and training rows to padded micro-batches."""

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True, eq=False)
class MicroBatch:
    """Rows padded on the right to one rectangle, and where their response tokens are.

    Right padding needs no attention mask under causal attention: no real token can see a pad. The last token of a row
    is a target but no input, since nothing is predicted from it.
    """

    token_ids: Tensor
    """(B, T) int64, every row without its last token; pads hold token 0."""
    predictors: Tensor
    """(S,) index into the flattened (B * T) positions whose hidden state predicts a response token."""
    targets: Tensor
    """(S,) the response tokens."""


def pad_rows(batch: TrainBatch, rows: Sequence[int]) -> MicroBatch:
    """Pad the given rows of the batch to the longest of them; no rows give one pad and no targets."""
    lengths = batch.row_lengths
    width = max([1, *(int(lengths[row]) - 1 for row in rows)])
    token_ids = np.zeros((max(len(rows), 1), width), dtype=np.int64)
    predictors: list[NDArray[np.int64]] = []
    targets: list[NDArray[np.int32]] = []
    for place, row in enumerate(rows):
        tokens = batch.token_ids[batch.offsets[row] : batch.offsets[row + 1]]
        token_ids[place, : len(tokens) - 1] = tokens[:-1]
        first = int(batch.prompt_lengths[row])
        predictors.append(place * width + np.arange(first - 1, len(tokens) - 1))
        targets.append(tokens[first:])
    return MicroBatch(
        token_ids=torch.from_numpy(token_ids),
        predictors=torch.from_numpy(np.concatenate([*predictors, np.empty(0, np.int64)])),
        targets=torch.from_numpy(np.concatenate([*targets, np.empty(0, np.int32)]).astype(np.int64)),
    )


def response_index(batch: TrainBatch, rows: Sequence[int]) -> NDArray[np.int64]:
    """(S,) places of the rows' response tokens in the batch's response arrays, in the order of `pad_rows`."""
    offsets = batch.response_offsets
    return np.concatenate([*(np.arange(offsets[row], offsets[row + 1]) for row in rows), np.empty(0, np.int64)])


def row_index(batch: TrainBatch, rows: Sequence[int]) -> NDArray[np.int64]:
    """(S,) which of the given rows each response token is in, counted from 0, in the order of `pad_rows`."""
    return np.repeat(np.arange(len(rows)), batch.response_lengths[list(rows)])
