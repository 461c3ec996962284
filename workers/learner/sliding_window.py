"""Causal attention that reaches back a fixed number of positions, without a mask as large as the sequence squared."""

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention


def sliding_window_attention(
    query: Tensor, key: Tensor, value: Tensor, *, scaling: float | None, window: int
) -> Tensor:
    """Each token sees the last w positions, its own included: exact, with O(L 2w) inner products for L positions.

    The first w queries see all before them. The others go in N blocks of w, each with the keys of its own block and of
    the one before, which is as far as its first query sees:

        queries [w (n + 1), w (n + 2))        keys [w n, w (n + 2))        i sees j where i < j <= i + w

    for places i and j within the block. So one (w, 2w) mask fits all blocks, which are the batch of one call. The last
    block is filled up on the right: only queries that are thrown away see the keys put there.

    Args:
        query: (B, heads, L, D), with L > w.
        key: (B, key-value heads, L, D)
        value: Likewise.
        scaling: Of the inner products; None for 1 / sqrt(D).
        window: w.

    Returns:
        (B, heads, L, D)
    """
    length = query.shape[2]
    grouped = query.shape[1] != key.shape[1]
    first = scaled_dot_product_attention(
        query[:, :, :window],
        key[:, :, :window],
        value[:, :, :window],
        is_causal=True,
        scale=scaling,
        enable_gqa=grouped,
    )
    distance = torch.arange(2 * window, device=query.device) - torch.arange(window, device=query.device)[:, None]
    others = scaled_dot_product_attention(
        _blocks(query, window)[:, 1:].flatten(0, 1),
        _pairs(_blocks(key, window)),
        _pairs(_blocks(value, window)),
        attn_mask=(distance > 0) & (distance <= window),
        scale=scaling,
        enable_gqa=grouped,
    )  # (B N, heads, w, D)
    others = others.unflatten(0, (query.shape[0], -1)).transpose(1, 2).flatten(2, 3)
    return torch.cat([first, others[:, :, : length - window]], dim=2)


def _blocks(tensor: Tensor, window: int) -> Tensor:
    """(B, N + 1, heads, w, D) of (B, heads, L, D)."""
    filled = pad(tensor, (0, 0, 0, -tensor.shape[2] % window))
    return filled.unflatten(2, (-1, window)).transpose(1, 2)


def _pairs(blocks: Tensor) -> Tensor:
    """(B N, heads, 2 w, D): each block but the first, behind the one before it."""
    return torch.cat([blocks[:, :-1], blocks[:, 1:]], dim=3).flatten(0, 1)
