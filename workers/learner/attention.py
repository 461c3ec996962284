"""Causal attention over packed rows, registered with transformers under the name `ATTENTION`.

Rows lie end to end in one sequence and must not see each other. No mask of the size of the sequence, or of a row,
squared is made:

- on a GPU, in 16 bits, torch's variable-length attention (FlashAttention) takes the boundaries as they are;
- elsewhere rows of like length are cut out of the sequence into rectangles, each an ordinary causal attention. Right
  padding is exact there, since no real token can see a pad, and only attention computes pads: the linear layers do not.

A padded micro-batch is one rectangle to begin with, and takes the same path. A sliding window is left to the kernel on
the former, and goes by blocks on the latter (`sliding_window`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from delta.errors import ConfigError
from workers.learner.sliding_window import sliding_window_attention

ATTENTION = "packed_rows"
"""The value for `attn_implementation`."""

MAX_PADDING = 0.125
"""Share of a rectangle's width that its shortest row may lack; less makes more and smaller calls."""


@dataclass(frozen=True, slots=True, eq=False)
class Rectangle:
    """Rows of like length, side by side."""

    index: Tensor | None
    """(b * L,) positions in the sequence; pads repeat the row's last one. None where the rows lie there as they are."""
    start: int
    """First position, where `index` is None."""
    rows: int
    width: int


@dataclass(frozen=True, slots=True, eq=False)
class PackedRows:
    """Boundaries of the rows in a packed sequence, in the form that each kernel wants; made once per micro-batch."""

    boundaries: Tensor
    """(R + 1,) int32, cumulative lengths."""
    longest: int
    rectangles: tuple[Rectangle, ...]
    """Empty where the boundaries alone are needed."""
    inverse: Tensor | None
    """(T,) where each position is in the joined rectangles; None where they lie in order."""


def takes_boundaries(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether there is a kernel of variable length; elsewhere rows are cut into rectangles."""
    return device.type == "cuda" and dtype in (torch.float16, torch.bfloat16)


def packed_rows(lengths: Sequence[int], device: torch.device, dtype: torch.dtype) -> PackedRows:
    """Plan the attention of rows of the given lengths, which lie end to end in that order.

    Args:
        lengths: Of the rows.
        device: Where attention is computed.
        dtype: Of its inputs.
    """
    starts = torch.tensor([0, *lengths]).cumsum(0)
    boundaries = starts.to(device, torch.int32)
    if takes_boundaries(device, dtype):
        return PackedRows(boundaries, max(lengths), (), None)
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    rectangles: list[Rectangle] = []
    places = torch.empty(int(starts[-1]), dtype=torch.int64)
    joined, first = 0, 0
    while first < len(order):
        width = lengths[order[first]]
        last = first
        while last < len(order) and lengths[order[last]] >= width * (1 - MAX_PADDING):
            last += 1
        members = order[first:last]
        widths = torch.tensor([lengths[row] for row in members])
        begins = starts[torch.tensor(members)]
        column = torch.arange(width)
        index = begins[:, None] + torch.minimum(column, widths[:, None] - 1)
        real = column < widths[:, None]
        places[index[real]] = joined + torch.arange(index.numel()).view_as(index)[real]
        joined += index.numel()
        index = index.flatten()
        in_place = bool((index == index[0] + torch.arange(len(index))).all())
        rectangles.append(Rectangle(None if in_place else index.to(device), int(index[0]), len(members), width))
        first = last
    in_order = joined == len(places) and bool((places == torch.arange(joined)).all())
    return PackedRows(boundaries, max(lengths), tuple(rectangles), None if in_order else places.to(device))


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    rows: PackedRows | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention of transformers' interface.

    Args:
        module: The attention layer; not asked.
        query: (B, heads, T, D)
        key: (B, key-value heads, T, D)
        value: Likewise.
        attention_mask: None; what may be seen follows from the rows.
        scaling: Of the inner products; None for 1 / sqrt(D).
        dropout: 0, since the learner must compute what the engine does.
        sliding_window: How many positions, its own included, a token sees; None for all before it.
        rows: Boundaries where B = 1 is a packed sequence; None for a rectangle.
        others: What a model passes along; additions to the inner products are refused.

    Returns:
        (B, T, heads, D), and no attention weights.
    """
    for name in ("softcap", "s_aux", "attn_bias", "position_bias"):
        if others.get(name) is not None:
            raise ConfigError(f"{type(module).__name__} passes {name} to its attention, which is not supported")
    if attention_mask is not None or dropout:
        raise ConfigError(f"{type(module).__name__} asks for an attention mask or dropout in a causal LM")
    if rows is None:
        output = _rectangle_attention(query, key, value, scaling, sliding_window).transpose(1, 2)
    elif rows.rectangles:
        output = _cut_attention(query, key, value, scaling, sliding_window, rows)
    else:
        output = _flash_attention(query, key, value, scaling, sliding_window, rows)
    return output.contiguous(), None


def _flash_attention(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None, rows: PackedRows
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    output = varlen_attn(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        rows.boundaries,
        rows.boundaries,
        rows.longest,
        rows.longest,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output.unsqueeze(0)  # type: ignore[union-attr]  # a tensor, since nothing else is asked for


def _cut_attention(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None, rows: PackedRows
) -> Tensor:
    """(1, T, heads, D): one attention per rectangle."""
    flat = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]  # (T, heads, D)
    pieces = []
    for rectangle in rows.rectangles:
        cut_query, cut_key, cut_value = (_cut(tensor, rectangle) for tensor in flat)
        output = _rectangle_attention(cut_query, cut_key, cut_value, scaling, window)
        pieces.append(output.transpose(1, 2).flatten(0, 1))
    joined = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    return (joined if rows.inverse is None else joined[rows.inverse]).unsqueeze(0)


def _cut(tensor: Tensor, rectangle: Rectangle) -> Tensor:
    """(b, heads, L, D) of (T, heads, D)."""
    size = rectangle.rows * rectangle.width
    place = slice(rectangle.start, rectangle.start + size) if rectangle.index is None else rectangle.index
    piece = tensor[place]
    return piece.unflatten(0, (rectangle.rows, rectangle.width)).transpose(1, 2)


def _rectangle_attention(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None
) -> Tensor:
    """(b, heads, L, D) of tensors of that shape."""
    if window is not None and window < query.shape[2]:
        return sliding_window_attention(query, key, value, scaling=scaling, window=window)
    return scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
    )


def uncompiled_attention() -> Any:
    """`attention` as torch.compile must leave it: each number of rectangles would be compiled anew, and they differ.

    Not a decorator: it imports the compiler, for which every command that reads a configuration would wait a second.
    """
    return torch.compiler.disable(attention)


def register() -> None:
    """Make `ATTENTION` known to transformers."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, uncompiled_attention())
