"""Which weights of a sync travel in one broadcast; both sides compute it from the same names and sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:  # the memory plan needs the size alone, and no vLLM for it
    from vllm.distributed.weight_transfer.base import ParamMeta

BUCKET_BYTES = 64 * 2**20
"""Weights that travel in one broadcast; bounds the extra memory on both sides."""


def buckets(metadata: Sequence[ParamMeta]) -> Iterator[list[ParamMeta]]:
    """Cut the stream into runs of one dtype and at most `BUCKET_BYTES` (a larger weight gets a bucket of its own)."""
    bucket: list[ParamMeta] = []
    size = 0
    for meta in metadata:
        meta_bytes = torch.Size(meta.shape).numel() * meta.dtype.itemsize
        if bucket and (meta.dtype != bucket[0].dtype or size + meta_bytes > BUCKET_BYTES):
            yield bucket
            bucket, size = [], 0
        bucket.append(meta)
        size += meta_bytes
    if bucket:
        yield bucket


def fill(weights: Iterator[tuple[str, torch.Tensor]], bucket: list[ParamMeta], *, pinned: bool) -> torch.Tensor:
    """Copy the next weights of the stream into one flat tensor in host memory; none of them outlives its turn.

    Args:
        weights: Names and whole tensors, wherever they are.
        bucket: What is next.
        pinned: Page-locked memory, which a GPU fills several times as fast.
    """
    sizes = [torch.Size(meta.shape).numel() for meta in bucket]
    flat = torch.empty(sum(sizes), dtype=bucket[0].dtype, pin_memory=pinned)
    for meta, part in zip(bucket, flat.split(sizes), strict=True):
        name, weight = next(weights)
        if name != meta.name:
            raise RuntimeError(f"the weight source yields {name} where its metadata says {meta.name}")
        part.copy_(weight.detach().flatten())
    return flat
