"""Training rows to the tensors of one forward pass: packed end to end, or padded to a rectangle."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from delta.types import TrainBatch


@dataclass(frozen=True, slots=True, eq=False)
class MicroBatch:
    """Rows as input of a forward pass, and where their response tokens are.

    A row is its tokens without the last one, from which nothing is predicted: that one is a target only.
    """

    token_ids: Tensor
    """(B, T) int64; packed: (1, T), row after row."""
    predictors: Tensor
    """(S,) index into the flattened (B * T) positions whose hidden state predicts a response token, ascending."""
    targets: Tensor
    """(S,) the response tokens."""
    row_lengths: tuple[int, ...] | None = None
    """Inputs of each row that is packed here, in order; their sum is T. None for a padded rectangle."""

    def to(self, device: torch.device | str) -> "MicroBatch":
        """The same there."""
        token_ids, predictors, targets = (each.to(device) for each in (self.token_ids, self.predictors, self.targets))
        return MicroBatch(token_ids, predictors, targets, self.row_lengths)


def pack_rows(batch: TrainBatch, rows: Sequence[int], *, multiple_of: int = 1) -> MicroBatch:
    """Lay the given rows of the batch end to end; no token is computed that is not one.

    Args:
        batch: The global batch.
        rows: Of it; none give one dummy token and no targets.
        multiple_of: Fill up to a multiple of so many tokens by a dummy row, so that ranks can share the sequence.
    """
    pieces: list[NDArray[np.int32]] = []
    predictors: list[NDArray[np.int64]] = []
    targets: list[NDArray[np.int32]] = []
    start = 0
    for row in rows:
        tokens = batch.token_ids[batch.offsets[row] : batch.offsets[row + 1]]
        first = int(batch.prompt_lengths[row])
        pieces.append(tokens[:-1])
        predictors.append(start + np.arange(first - 1, len(tokens) - 1))
        targets.append(tokens[first:])
        start += len(tokens) - 1
    filling = -start % multiple_of if start else multiple_of
    if filling:
        pieces.append(np.zeros(filling, dtype=np.int32))
    return MicroBatch(
        token_ids=_int64(pieces).unsqueeze(0),
        predictors=_int64(predictors),
        targets=_int64(targets),
        row_lengths=tuple(len(piece) for piece in pieces if len(piece)),
    )


def pad_rows(batch: TrainBatch, rows: Sequence[int]) -> MicroBatch:
    """Pad the given rows of the batch to the longest of them; no rows give one pad and no targets.

    Right padding needs no attention mask under causal attention: no real token can see a pad. Pads hold token 0.
    """
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
    return MicroBatch(token_ids=torch.from_numpy(token_ids), predictors=_int64(predictors), targets=_int64(targets))


def response_index(batch: TrainBatch, rows: Sequence[int]) -> NDArray[np.int64]:
    """(S,) places of the rows' response tokens in the batch's response arrays, in the order of the micro-batch."""
    offsets = batch.response_offsets
    return np.concatenate([*(np.arange(offsets[row], offsets[row + 1]) for row in rows), np.empty(0, np.int64)])


def row_index(batch: TrainBatch, rows: Sequence[int]) -> NDArray[np.int64]:
    """(S,) which of the given rows each response token is in, counted from 0, in the order of the micro-batch."""
    return np.repeat(np.arange(len(rows)), batch.response_lengths[list(rows)])


def _int64(pieces: Sequence[NDArray[np.int32] | NDArray[np.int64]]) -> Tensor:
    """All pieces in one."""
    return torch.from_numpy(np.concatenate([*pieces, np.empty(0, np.int64)]).astype(np.int64))
