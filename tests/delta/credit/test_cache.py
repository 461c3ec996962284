import math

import pytest
import torch
from torch import Tensor

from delta.credit.cache import CHUNK_ELEMENTS, RowCache, accumulation_dtype, chunk_rows

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def numbers(rows: int, width: int = 3) -> Tensor:
    """Every number of its own, so that a row out of place shows."""
    return torch.arange(rows * width, dtype=torch.float32).view(rows, width) + 1


def everything(cache: RowCache, **settings: int) -> Tensor:
    return torch.cat([chunk for _, chunk in cache.chunks(**settings)])


def test_rows_come_back_in_the_order_of_the_appends() -> None:
    rows = numbers(9)
    cache = RowCache()
    for part in rows.split([2, 0, 6, 1]):
        cache.append(part)
    assert len(cache) == 9
    assert torch.equal(everything(cache), rows)


def test_a_sweep_can_be_repeated() -> None:
    cache = RowCache()
    cache.append(numbers(4))
    assert torch.equal(everything(cache), everything(cache))


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_chunks_tell_their_places_and_keep_to_their_size(size: int) -> None:
    rows = numbers(9)
    cache = RowCache()
    for part in rows.split([2, 7]):
        cache.append(part)
    ends = [0]
    for place, chunk in cache.chunks(rows=size):
        assert torch.equal(chunk, rows[place])
        assert place.start == ends[-1]
        assert len(chunk) == place.stop - place.start <= size
        ends.append(place.stop)
    assert ends[-1] == 9


@pytest.mark.parametrize(("elements", "longest"), [(1, 1), (6, 2), (8, 2), (9, 3), (1000, 5)])
def test_a_chunk_has_as_many_rows_as_the_device_likes(
    elements: int, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CHUNK_ELEMENTS, "cpu", elements)
    cache = RowCache()
    cache.append(numbers(5))
    assert max(len(chunk) for _, chunk in cache.chunks()) == longest
    assert torch.equal(everything(cache), numbers(5))


def test_chunk_rows_is_one_row_at_least() -> None:
    device = torch.device("cpu")
    assert chunk_rows(10 * CHUNK_ELEMENTS["cpu"], device) == 1
    assert chunk_rows(0, device) == CHUNK_ELEMENTS["cpu"]
    assert chunk_rows(2**10, device) == CHUNK_ELEMENTS["cpu"] // 2**10


def test_an_unknown_device_has_the_chunks_of_a_gpu() -> None:
    assert chunk_rows(1, torch.device("meta")) == chunk_rows(1, torch.device("cuda")) == CHUNK_ELEMENTS["cuda"]


@pytest.mark.parametrize(
    ("stored", "swept"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_rows_keep_their_precision_and_are_swept_in_float32_or_better(stored: torch.dtype, swept: torch.dtype) -> None:
    rows = (numbers(4) / 7).to(stored)
    cache = RowCache()
    kept, _ = cache.append(rows)
    assert kept.dtype == stored
    assert accumulation_dtype(stored) == swept
    assert everything(cache).dtype == swept
    assert torch.equal(everything(cache), rows.to(swept))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_cache_of_a_given_precision_rounds_to_it(dtype: torch.dtype) -> None:
    rows = numbers(4).double() / 7
    cache = RowCache(dtype=dtype)
    kept, _ = cache.append(rows)
    assert kept.dtype == dtype
    assert torch.equal(kept, rows.to(dtype))
    assert torch.equal(everything(cache), rows.to(dtype).to(accumulation_dtype(dtype)))
    assert cache.device_bytes == rows.numel() * dtype.itemsize


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("column", [0, 2])
def test_a_row_that_is_not_finite_is_zero_and_flagged(dtype: torch.dtype, bad: float, column: int) -> None:
    rows = numbers(4).to(dtype)
    rows[1, column] = bad
    cache = RowCache()
    kept, finite = cache.append(rows)
    assert finite.tolist() == [True, False, True, True]
    expected = numbers(4)
    expected[1] = 0
    assert torch.equal(kept.float(), expected)
    assert torch.equal(everything(cache).float(), expected)
    assert not math.isfinite(rows[1, column])  # the caller's tensor is the caller's


def test_what_overflows_the_precision_of_the_cache_is_not_finite() -> None:
    rows = torch.tensor([[3.4e38, 1.0], [3.3e38, 1.0], [-3.4e38, 1.0]])
    assert RowCache().append(rows)[1].tolist() == [True, True, True]
    kept, finite = RowCache(dtype=torch.bfloat16).append(rows)
    assert finite.tolist() == [False, True, False]
    assert kept[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("shape", [(0, 3), (0, 0), (2, 0)])
def test_rows_without_numbers_are_finite(shape: tuple[int, int]) -> None:
    cache = RowCache()
    kept, finite = cache.append(torch.empty(shape))
    assert kept.shape == shape
    assert finite.tolist() == [True] * shape[0]
    assert len(cache) == shape[0]


def test_an_empty_cache_has_no_chunk() -> None:
    assert len(RowCache()) == 0
    assert list(RowCache().chunks()) == []


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_a_slice_is_copied_or_it_would_keep_the_whole_alive(mode: type) -> None:
    with mode():
        whole = numbers(1000)
        cache = RowCache()
        cache.append(whole[10:12])
        whole.fill_(-1.0)
        assert torch.equal(everything(cache), numbers(1000)[10:12])
        (part,) = cache._parts
        assert part.untyped_storage().nbytes() == 2 * 3 * 4


def test_a_whole_tensor_is_not_copied() -> None:
    rows = numbers(5)
    cache = RowCache()
    kept, _ = cache.append(rows)
    assert kept.data_ptr() == cache._parts[0].data_ptr() == rows.data_ptr()


def test_rows_carry_no_gradient() -> None:
    cache = RowCache()
    kept, _ = cache.append(numbers(3).requires_grad_() * 2)
    assert not kept.requires_grad
    assert not everything(cache).requires_grad


def test_device_bytes_count_what_is_stored() -> None:
    cache = RowCache(dtype=torch.bfloat16)
    cache.append(numbers(4))
    cache.append(numbers(1))
    assert cache.device_bytes == 5 * 3 * 2


def test_a_budget_has_no_effect_in_host_memory() -> None:
    cache = RowCache(device_budget_bytes=0)
    kept, _ = cache.append(numbers(4))
    assert kept.device.type == "cpu"
    assert torch.equal(everything(cache), numbers(4))
    assert not cache._parts[0].is_pinned()


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_rows_beyond_the_budget_wait_in_pinned_host_memory(dtype: torch.dtype) -> None:
    rows = numbers(1000, 64).cuda().to(dtype)
    cache = RowCache(device_budget_bytes=500 * 64 * dtype.itemsize)
    for part in rows.split(250):
        cache.append(part)
    assert [part.is_cuda for part in cache._parts] == [True, True, False, False]
    assert [part.is_pinned() for part in cache._parts[2:]] == [True, True]
    assert cache.device_bytes == 500 * 64 * dtype.itemsize
    swept = everything(cache, rows=100)
    assert swept.is_cuda
    assert torch.equal(swept, rows.float())


@pytest.mark.gpu
@needs_gpu
def test_a_part_that_fits_stays_on_the_device_after_one_that_did_not() -> None:
    cache = RowCache(device_budget_bytes=10 * 64 * 4)
    for size in (8, 5, 2):
        cache.append(numbers(size, 64).cuda())
    assert [part.is_cuda for part in cache._parts] == [True, False, True]


@pytest.mark.gpu
@needs_gpu
def test_a_source_may_be_reused_once_its_rows_are_in_host_memory() -> None:
    source = numbers(4000, 512).cuda()
    cache = RowCache(device_budget_bytes=0)
    cache.append(source)
    source.fill_(-1.0)
    assert torch.equal(everything(cache).cpu(), numbers(4000, 512))


@pytest.mark.gpu
@needs_gpu
def test_rows_that_are_not_finite_are_zero_in_host_memory_too() -> None:
    rows = numbers(4).cuda()
    rows[2, 1] = math.nan
    cache = RowCache(device_budget_bytes=0)
    _, finite = cache.append(rows)
    assert finite.is_cuda
    assert finite.tolist() == [True, True, False, True]
    assert everything(cache)[2].tolist() == [0.0] * 3
