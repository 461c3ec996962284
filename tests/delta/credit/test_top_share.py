import math
import struct
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from delta.collectives import AllReduce
from delta.credit import top_share
from delta.credit.top_share import DIGITS, Selection
from tests.delta.credit.reference import on_ranks


def naive(scores: Sequence[float], candidates: Sequence[bool], share: float) -> list[bool]:
    """Sort the candidates, take the last that is needed, and everyone who is not below."""
    eligible = sorted((x for x, is_candidate in zip(scores, candidates, strict=True) if is_candidate), reverse=True)
    if not eligible:
        return [False] * len(scores)
    threshold = eligible[math.ceil(share * len(eligible)) - 1]
    return [is_candidate and x >= threshold for x, is_candidate in zip(scores, candidates, strict=True)]


def single(x: float) -> float:
    """Rounded to float32."""
    return struct.unpack("f", struct.pack("f", x))[0]


def everyone(scores: Tensor) -> Tensor:
    return torch.ones(len(scores), dtype=torch.bool)


@pytest.mark.parametrize("share", [1e-9, 0.01, 0.2, 0.5, 0.77, 0.999, 1.0])
@pytest.mark.parametrize("count", [1, 2, 10, 1000])
def test_selection_equals_sorting(count: int, share: float) -> None:
    generator = torch.Generator().manual_seed(count)
    scores = torch.randn(count, generator=generator)
    candidates = torch.rand(count, generator=generator) < 0.7
    selection = top_share(scores, candidates, share=share)
    expected = naive(scores.tolist(), candidates.tolist(), share)
    assert selection.selected.tolist() == expected
    assert selection.count == sum(expected)
    assert selection.candidates == int(candidates.sum())


@pytest.mark.parametrize(
    ("scores", "share", "expected"),
    [
        ([1.0, 2.0, 3.0, 4.0], 0.5, [False, False, True, True]),
        ([1.0, 2.0, 3.0, 4.0], 0.51, [False, True, True, True]),  # 2.04 tokens are 3
        ([1.0, 2.0, 3.0, 4.0], 1.0, [True] * 4),
        ([2.0, 1.0, 2.0, 2.0], 0.25, [True, False, True, True]),  # ties with the last
        ([1.0, 1.0, 1.0], 0.1, [True] * 3),
        ([-1.0, -2.0, -3.0], 0.3, [True, False, False]),
        ([-1.0, 0.0, 1.0], 0.6, [False, True, True]),
        ([0.0, -0.0, -1.0], 0.2, [True, True, False]),  # zeros are equal
        ([-0.0, 0.0, 1.0], 0.6, [True, True, True]),
        ([-1e-45, 0.0, 1e-45], 0.3, [False, False, True]),
        ([-1e-45, -0.0, 1e-45], 0.6, [False, True, True]),
        ([-3.4e38, 3.4e38, 0.0], 0.6, [False, True, True]),
        ([-math.inf, 0.0, math.inf], 0.6, [False, True, True]),
    ],
    ids=str,
)
def test_hand_worked_selections(scores: list[float], share: float, expected: list[bool]) -> None:
    tensor = torch.tensor(scores)
    assert top_share(tensor, everyone(tensor), share=share).selected.tolist() == expected


def test_scores_that_differ_in_the_last_bit_are_told_apart() -> None:
    # The first digit of the histogram is the same for all of them.
    ones = torch.full((4,), 1.0)
    scores = torch.nextafter(ones, torch.tensor([2.0, 1.0, 0.0, 2.0]))
    scores[3] = torch.nextafter(scores[3], torch.tensor(2.0))
    assert top_share(scores, everyone(scores), share=0.25).selected.tolist() == [False, False, False, True]
    assert top_share(scores, everyone(scores), share=0.5).selected.tolist() == [True, False, False, True]
    assert top_share(scores, everyone(scores), share=0.75).selected.tolist() == [True, True, False, True]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_neighbours_across_a_digit_are_in_order(sign: float) -> None:
    # 2^16 neighbouring floats share the upper digit; the last of one and the first of the next are a bit apart.
    start = torch.tensor([1.0]).view(torch.int32)
    bits = start + torch.tensor([DIGITS - 1, DIGITS, DIGITS + 1, -1, 0])
    scores = sign * bits.int().view(torch.float32)
    for wanted in range(1, 6):
        expected = naive(scores.tolist(), [True] * 5, wanted / 5)
        assert sum(expected) == wanted
        assert top_share(scores, everyone(scores), share=wanted / 5).selected.tolist() == expected


def test_scores_of_tokens_that_are_no_candidates_do_not_matter() -> None:
    scores = torch.tensor([1.0, math.nan, 3.0, math.inf, 2.0])
    candidates = torch.tensor([True, False, True, False, True])
    selection = top_share(scores, candidates, share=0.5)
    assert selection.selected.tolist() == [False, False, True, False, True]
    assert (selection.count, selection.candidates) == (2, 3)


@pytest.mark.parametrize("count", [0, 3])
def test_no_candidate_gives_no_selection(count: int) -> None:
    selection = top_share(torch.zeros(count), torch.zeros(count, dtype=torch.bool), share=0.5)
    assert selection.selected.tolist() == [False] * count
    assert (selection.count, selection.candidates) == (0, 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_scores_of_other_precisions_are_compared_in_float32(dtype: torch.dtype) -> None:
    scores = torch.randn(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    expected = naive([single(x) for x in scores.double().tolist()], [True] * 50, 0.3)
    assert top_share(scores, everyone(scores), share=0.3).selected.tolist() == expected


def test_scores_are_not_written_to() -> None:
    scores = torch.tensor([-0.0, 1.0])
    top_share(scores, everyone(scores), share=0.5)
    assert math.copysign(1.0, scores[0].item()) == -1.0


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_selection_does_not_depend_on_the_ranks(ranks: int, share: float) -> None:
    generator = torch.Generator().manual_seed(ranks)
    scores = (torch.randn(300, generator=generator) * 10).round() / 10  # with ties, across ranks too
    candidates = torch.rand(300, generator=generator) < 0.8
    owner = torch.randint(ranks, (300,), generator=generator)
    candidates[owner == ranks - 1] &= ranks == 1  # a rank without a candidate

    def run(rank: int, all_reduce: AllReduce) -> Selection:
        return top_share(scores[owner == rank], candidates[owner == rank], share=share, all_reduce=all_reduce)

    selections, shapes = on_ranks(ranks, run)
    expected = torch.tensor(naive(scores.tolist(), candidates.tolist(), share))
    for rank, selection in enumerate(selections):
        assert torch.equal(selection.selected, expected[owner == rank])
        assert selection.count == int(expected.sum())
        assert selection.candidates == int(candidates.sum())
    assert all(rank == [(DIGITS,), (DIGITS,)] for rank in shapes)


def test_all_ranks_agree_that_there_is_no_candidate() -> None:
    def run(rank: int, all_reduce: AllReduce) -> Selection:
        return top_share(torch.ones(rank), torch.zeros(rank, dtype=torch.bool), share=0.5, all_reduce=all_reduce)

    selections, shapes = on_ranks(2, run)
    assert [selection.candidates for selection in selections] == [0, 0]
    assert shapes[0] == shapes[1]


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="got shape"):
        top_share(torch.zeros(3), torch.ones(2, dtype=torch.bool), share=0.5)
    with pytest.raises(ValueError, match="got shape"):
        top_share(torch.zeros(3, 1), torch.ones(3, dtype=torch.bool), share=0.5)
