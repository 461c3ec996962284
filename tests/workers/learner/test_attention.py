"""Packed attention against one ordinary attention per row."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from delta.errors import ConfigError
from workers.learner.attention import MAX_PADDING, attention, packed_rows, takes_boundaries

CPU = torch.device("cpu")


def naive(query: Tensor, key: Tensor, value: Tensor, *, scaling: float, window: int | None) -> Tensor:
    """(T, heads, D): every inner product written out, for one row of (heads, T, D)."""
    key, value = (tensor.repeat_interleave(query.shape[0] // tensor.shape[0], dim=0) for tensor in (key, value))
    places = torch.arange(query.shape[1])
    distance = places[:, None] - places
    seen = (distance >= 0) & (distance < (window or len(places)))
    scores = (query @ key.transpose(1, 2) * scaling).masked_fill(~seen, -torch.inf)
    return (scores.softmax(-1) @ value).transpose(0, 1)


def row_by_row(lengths: list[int], *tensors: Tensor, scaling: float, window: int | None = None) -> Tensor:
    rows = zip(*(tensor[0].split(lengths, dim=1) for tensor in tensors), strict=True)
    return torch.cat([naive(*row, scaling=scaling, window=window) for row in rows]).unsqueeze(0)


def inputs(length: int, *, heads: int = 4, key_value_heads: int = 2, width: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)
    return [
        torch.randn(1, count, length, width, generator=generator, dtype=torch.float64, requires_grad=True)
        for count in (heads, key_value_heads, key_value_heads)
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=9), st.sampled_from([None, 1, 3, 17, 100]))
def test_rows_see_themselves_only(lengths: list[int], window: int | None) -> None:
    tensors = inputs(sum(lengths))
    rows = packed_rows(lengths, CPU, tensors[0].dtype)
    output, weights = attention(nn.Identity(), *tensors, None, scaling=0.3, sliding_window=window, rows=rows)
    expected = row_by_row(lengths, *tensors, scaling=0.3, window=window)
    assert weights is None
    torch.testing.assert_close(output, expected)
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=output.dtype)
    for ours, reference in zip(
        torch.autograd.grad(output, tensors, direction),
        torch.autograd.grad(expected, tensors, direction),
        strict=True,
    ):
        torch.testing.assert_close(ours, reference)


def test_a_rectangle_is_causal_as_it_is() -> None:
    query, key, value = (torch.randn(3, heads, 7, 8) for heads in (4, 2, 2))
    output, _ = attention(nn.Identity(), query, key, value, None, scaling=0.5)
    for row in range(3):
        expected = naive(query[row], key[row], value[row], scaling=0.5, window=None)
        torch.testing.assert_close(output[row], expected)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=40))
def test_little_is_padded(lengths: list[int]) -> None:
    rows = packed_rows(lengths, CPU, torch.float32)
    computed = sum(rectangle.rows * rectangle.width for rectangle in rows.rectangles)
    assert sum(lengths) <= computed <= sum(lengths) / (1 - MAX_PADDING)
    assert sum(rectangle.rows for rectangle in rows.rectangles) == len(lengths)
    assert rows.boundaries.tolist()[-1] == sum(lengths)


def test_rows_of_one_length_are_not_copied() -> None:
    rows = packed_rows([5, 5, 5], CPU, torch.float32)
    assert [rectangle.index for rectangle in rows.rectangles] == [None]
    assert rows.inverse is None


@pytest.mark.parametrize("window", [None, 16])
def test_nothing_of_the_length_squared_is_kept_for_the_backward_pass(window: int | None) -> None:
    length = 256
    saved: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    rows = packed_rows([length], CPU, torch.float32)
    tensors = [tensor.float() for tensor in inputs(length)]
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        attention(nn.Identity(), *tensors, None, sliding_window=window, rows=rows)
    assert saved
    assert max(tensor.untyped_storage().nbytes() // tensor.element_size() for tensor in saved) < length**2
    assert max(tensor.numel() for tensor in saved) < length**2


@pytest.mark.parametrize("name", ["softcap", "s_aux", "attn_bias"])
def test_what_would_be_ignored_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"Identity passes {name}"):
        attention(nn.Identity(), *inputs(4), None, **{name: torch.ones(1)})


def test_masks_and_dropout_are_refused() -> None:
    with pytest.raises(ConfigError, match="attention mask or dropout"):
        attention(nn.Identity(), *inputs(4), torch.ones(1, 1, 4, 4))
    with pytest.raises(ConfigError, match="attention mask or dropout"):
        attention(nn.Identity(), *inputs(4), None, dropout=0.1)


@pytest.mark.parametrize(
    ("device", "dtype", "expected"),
    [
        ("cuda", torch.bfloat16, True),
        ("cuda", torch.float16, True),
        ("cuda", torch.float32, False),
        ("cpu", torch.bfloat16, False),
    ],
)
def test_rows_are_cut_wherever_no_kernel_takes_their_boundaries(
    device: str, dtype: torch.dtype, expected: bool
) -> None:
    assert takes_boundaries(torch.device(device), dtype) is expected


GPU = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")])


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("window", [None, 16])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 8e-2), (torch.float32, 1e-3)])
def test_every_device_keeps_rows_apart_in_every_precision(
    device: str, dtype: torch.dtype, tolerance: float, window: int | None
) -> None:
    """Output and gradients beside those of each row alone, computed from the same numbers in float64."""
    lengths, scaling = [100, 1, 37, 64], 0.2
    tensors = [tensor.detach().to(device, dtype).requires_grad_() for tensor in inputs(sum(lengths), width=64)]
    rows = packed_rows(lengths, torch.device(device), dtype)
    output, _ = attention(nn.Identity(), *tensors, None, scaling=scaling, sliding_window=window, rows=rows)
    wide = [tensor.detach().cpu().double().requires_grad_() for tensor in tensors]
    expected = row_by_row(lengths, *wide, scaling=scaling, window=window)
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    ours = torch.autograd.grad(output, tensors, direction.to(device))
    references = torch.autograd.grad(expected, wide, direction.double())
    for got, reference in zip((output, *ours), (expected, *references), strict=True):
        size = float(reference.detach().std())
        torch.testing.assert_close(
            got.detach().cpu().double(), reference.detach(), rtol=tolerance, atol=tolerance * size
        )
