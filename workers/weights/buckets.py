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
