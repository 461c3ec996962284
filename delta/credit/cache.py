"""Where the old-policy pass leaves what credit reads later: on the device up to a budget, then in host memory."""

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK_ELEMENTS = {"cpu": 2**20, "cuda": 2**25}
"""Numbers that a sweep converts to accumulation precision at a time: they stay in the cache, or keep a GPU busy."""


class RowCache:
    """Rows of one width, appended micro-batch by micro-batch and swept over in the same order.

    Nothing is ever joined, so the cache takes its own size and a sweep one chunk on top of it.
    """

    def __init__(self, *, dtype: torch.dtype | None = None, device_budget_bytes: int | None = None) -> None:
        """Start empty.

        Args:
            dtype: Of the stored rows; None keeps what is appended.
            device_budget_bytes: Rows beyond it go to pinned host memory; None keeps all where they are. Of no effect
                for rows that are in host memory anyway.
        """
        self._dtype = dtype
        self._budget = device_budget_bytes
        self._parts: list[Tensor] = []
        self._device = torch.device("cpu")
        self._on_device = 0

    def __len__(self) -> int:
        """Rows stored."""
        return sum(len(part) for part in self._parts)

    @property
    def device_bytes(self) -> int:
        """Bytes held on the device that the rows came from."""
        return self._on_device

    def append(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Store (S, H) rows; one that is not finite in the precision of the cache is stored as zeros.

        Returns:
            The rows as stored, for who wants to use them while they are warm, and (S,) bool which were finite.
        """
        stored = rows.detach().to(self._dtype or rows.dtype)
        finite = torch.cat(
            [_finite(chunk) for chunk in torch.split(stored, chunk_rows(stored.shape[1], stored.device))]
        )
        if not finite.all():
            stored = stored.masked_fill(~finite.unsqueeze(1), 0.0)
        self._device = stored.device
        size = stored.numel() * stored.element_size()
        if self._budget is not None and stored.is_cuda and self._on_device + size > self._budget:
            host = torch.empty(stored.shape, dtype=stored.dtype, pin_memory=True)
            host.copy_(stored, non_blocking=True)
            torch.cuda.current_stream(stored.device).synchronize()  # the source may be freed after this
            self._parts.append(host)
        else:
            # A slice would keep the whole tensor alive that it was cut from.
            self._parts.append(stored.clone() if stored.untyped_storage().nbytes() > size else stored)
            self._on_device += size
        return stored, finite

    def chunks(self, *, rows: int | None = None) -> Iterator[tuple[slice, Tensor]]:
        """All rows in order, on their device, float32 or better; with their places.

        Args:
            rows: Rows of a chunk at most; by default as many as the device likes.
        """
        start = 0
        for part in self._parts:
            size = rows or chunk_rows(part.shape[1], self._device)
            for chunk in torch.split(part, size):
                moved = chunk.to(self._device, non_blocking=True)
                yield slice(start, start + len(chunk)), moved.to(accumulation_dtype(moved.dtype))
                start += len(chunk)


def _finite(rows: Tensor) -> Tensor:
    """(S,) bool; a NaN fails every comparison."""
    # One number tells of most chunks that all rows are: a NaN or infinity reaches it. It may also overflow itself.
    if not rows.numel() or torch.isfinite(rows.sum(dtype=accumulation_dtype(rows.dtype))):
        return rows.new_ones(len(rows), dtype=torch.bool)
    return rows.abs().amax(dim=1) < torch.inf


def chunk_rows(width: int, device: torch.device) -> int:
    """Rows of `width` numbers that make a chunk."""
    return max(1, CHUNK_ELEMENTS.get(device.type, CHUNK_ELEMENTS["cuda"]) // max(width, 1))


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Float32 for narrower types, and what is wider stays."""
    return torch.promote_types(dtype, torch.float32)
