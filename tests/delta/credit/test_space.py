"""Both spaces under one contract: they hold different vectors, and the estimator cannot tell."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from delta.collectives import AllReduce
from delta.credit import (
    DiscriminativeConfig,
    Proxy,
    SidedCredit,
    TokenSpace,
    discriminative_coefficients,
    estimate_credit,
)
from delta.credit.cache import CHUNK_ELEMENTS
from delta.credit.discriminative import CacheDtype, two_sided_margins
from delta.credit.space import Members, side_weights
from delta.credit.within_side import within_side_margins
from tests.delta.credit.reference import SPACES, HeadBatch, fill, head_batch, on_ranks

BAD = (math.nan, math.inf, -math.inf)


def new_space(space: str, batch: HeadBatch) -> TokenSpace:
    return DiscriminativeConfig(proxy=Proxy[space]).new_space(batch.logits)


# Minus infinity is a number for the row proxy: an impossible token has the whole hidden state for its vector.
@pytest.mark.parametrize(
    ("space", "bad"), [("row", math.nan), ("row", math.inf), *[("last_layer", bad) for bad in BAD]]
)
def test_log_probs_that_are_not_numbers_make_unusable_tokens(space: str, bad: float) -> None:
    batch = head_batch(52)
    log_probs = batch.log_probs
    broken = log_probs.clone()
    broken[[3, 8]] = bad
    config = DiscriminativeConfig(proxy=Proxy[space])
    filled = config.new_space(batch.logits)
    filled.append(batch.hidden, broken, batch.targets, batch.advantages)
    credit = estimate_credit(filled, neutral_tokens=0)
    keep = torch.ones(len(log_probs), dtype=torch.bool)
    keep[[3, 8]] = False
    without = config.new_space(batch.logits)
    without.append(batch.hidden[keep], log_probs[keep], batch.targets[keep], batch.advantages[keep])
    expected = estimate_credit(without, neutral_tokens=2)
    torch.testing.assert_close(credit.coefficients[keep], expected.coefficients)
    assert credit.coefficients[~keep].tolist() == pytest.approx([expected.neutral_coefficient] * 2)
    assert (credit.unusable_tokens, expected.unusable_tokens) == (2, 0)


def realistic(seed: int) -> HeadBatch:
    """3,000 tokens of 64 numbers: what all tokens share, what the sides have of their own, and noise."""
    generator = torch.Generator().manual_seed(seed)
    tokens, hidden, vocabulary = 3000, 64, 24
    sign = torch.where(torch.rand(tokens, generator=generator) < 0.6, 1.0, -1.0)
    shared, own = torch.randn(2, hidden, generator=generator)
    noise = torch.randn(tokens, hidden, generator=generator)
    # Few tokens in a reasoning text tell the sides apart.
    telling = (torch.rand(tokens, generator=generator) < 0.3) * sign
    states = (shared + telling.unsqueeze(1) * own + noise).float()
    head = torch.randn(vocabulary, hidden, generator=generator) / 8
    targets = torch.multinomial(torch.softmax(states @ head.T, dim=-1), 1, generator=generator).squeeze(1)
    rollouts = torch.rand(100, generator=generator)[torch.arange(tokens) // 30] + 0.1
    return HeadBatch(states, head, targets, sign * rollouts)


def dense_last_layer(batch: HeadBatch) -> Tensor:
    """(S, V * H) float64, written down."""
    hidden, head = batch.hidden.double(), batch.head.double()
    probabilities = torch.softmax(hidden @ head.T, dim=-1)
    residual = torch.nn.functional.one_hot(batch.targets, head.shape[0]) - probabilities
    return torch.einsum("sv,sh->svh", residual, hidden).flatten(1)


@pytest.mark.parametrize(
    ("space", "cache_dtype", "tolerance"),
    [
        ("row", CacheDtype.model, 1e-5),
        ("row", CacheDtype.float32, 1e-5),
        ("row", CacheDtype.bfloat16, 2e-3),
        ("last_layer", CacheDtype.model, 1e-5),
        ("last_layer", CacheDtype.float32, 1e-5),
        # Rounded hidden states are those of a slightly other policy: the probabilities move too.
        ("last_layer", CacheDtype.bfloat16, 1e-2),
    ],
)
def test_cache_precision_on_a_batch_of_realistic_shape(space: str, cache_dtype: CacheDtype, tolerance: float) -> None:
    batch = realistic(70)
    vectors = batch.row_vectors() if space == "row" else dense_last_layer(batch)
    expected = discriminative_coefficients(vectors, batch.advantages)
    assert expected.max() - expected.min() > 0.2  # there is something to get wrong
    config = DiscriminativeConfig(proxy=Proxy[space], cache_dtype=cache_dtype)
    filled = fill(config.new_space(batch.logits), batch, sizes=[1, 700, 0, 1299])
    coefficients = estimate_credit(filled, neutral_tokens=0).coefficients
    torch.testing.assert_close(coefficients, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("space", "tolerance"), [("row", 2e-3), ("last_layer", 1e-5)])
def test_hidden_states_of_a_bfloat16_model_are_kept_as_they_are(space: str, tolerance: float) -> None:
    batch = realistic(71)
    rounded = replace(batch, hidden=batch.hidden.bfloat16())
    vectors = rounded.row_vectors() if space == "row" else dense_last_layer(rounded)
    expected = discriminative_coefficients(vectors, batch.advantages)
    coefficients = estimate_credit(fill(new_space(space, rounded), rounded), neutral_tokens=0).coefficients
    torch.testing.assert_close(coefficients, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("sizes", [[], [0], [1] * 39, [5, 0, 20], [39]], ids=str)
def test_any_split_into_micro_batches_and_any_order_give_the_same(space: str, sizes: list[int]) -> None:
    batch = head_batch(71)
    whole = estimate_credit(fill(new_space(space, batch), batch), neutral_tokens=4, refinements=2)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(len(sizes)))
    split = fill(new_space(space, batch), batch, places=order, sizes=sizes)
    credit = estimate_credit(split, neutral_tokens=4, refinements=2)
    torch.testing.assert_close(credit.coefficients, whole.coefficients[order], rtol=0, atol=1e-6)
    assert credit.neutral_coefficient == pytest.approx(whole.neutral_coefficient)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("ranks", [2, 3])
def test_any_order_of_ranks_gives_the_same(space: str, ranks: int) -> None:
    batch = head_batch(72)
    whole = estimate_credit(fill(new_space(space, batch), batch), neutral_tokens=ranks)
    owner = torch.randint(ranks, (40,), generator=torch.Generator().manual_seed(ranks))
    owner[owner == 0] = ranks - 1  # the first rank has an empty share, and the head all the same

    def run(rank: int, all_reduce: AllReduce) -> SidedCredit:
        places = torch.nonzero(owner == rank).squeeze(1)
        filled = fill(new_space(space, batch), batch, places=places, sizes=[len(places) // 2])
        return estimate_credit(filled, neutral_tokens=1, all_reduce=all_reduce)

    credits, shapes = on_ranks(ranks, run)
    for rank, credit in enumerate(credits):
        torch.testing.assert_close(credit.coefficients, whole.coefficients[owner == rank], rtol=0, atol=1e-6)
        assert credit.neutral_coefficient == pytest.approx(whole.neutral_coefficient)
    assert all(other == shapes[0] for other in shapes)


# --- what a space answers ---


def dense(space: str, batch: HeadBatch) -> Tensor:
    """(S, N) float64 vectors, written down."""
    return batch.row_vectors() if space == "row" else batch.head_gradients()


def naive_sums(vectors: Sequence[Sequence[float]], weights: Sequence[float], sides: Sequence[bool]) -> Tensor:
    """(2, N) one product at a time."""
    sums = [[0.0] * len(vectors[0]) for _ in range(2)]
    for vector, weight, positive in zip(vectors, weights, sides, strict=True):
        for place, value in enumerate(vector):
            sums[0 if positive else 1][place] += weight * value
    return torch.tensor(sums, dtype=torch.float64)


@pytest.mark.parametrize("space", SPACES)
def test_sums_are_weighted_sums_over_the_sides(space: str) -> None:
    batch = head_batch(80)
    filled = fill(new_space(space, batch), batch, sizes=[3, 14])
    weights = torch.rand(40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = naive_sums(dense(space, batch).tolist(), weights.tolist(), (batch.advantages > 0).tolist())
    torch.testing.assert_close(filled.sums(weights).flatten(1), expected)


@pytest.mark.parametrize("space", SPACES)
def test_advantage_sums_are_weighted_by_magnitude(space: str) -> None:
    batch = head_batch(81)
    filled = fill(new_space(space, batch), batch, sizes=[3, 14])
    expected = naive_sums(
        dense(space, batch).tolist(), batch.advantages.abs().tolist(), (batch.advantages > 0).tolist()
    )
    torch.testing.assert_close(filled.advantage_sums().flatten(1), expected)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("scale", [1.0, 0.0, 1e-20, 1e20])
def test_project_is_the_inner_product(space: str, scale: float) -> None:
    batch = head_batch(82)
    filled = fill(new_space(space, batch), batch, sizes=[3, 14])
    direction = scale * torch.randn(
        filled.advantage_sums().shape[1:], generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    flat = direction.flatten().tolist()
    expected = [sum(x * y for x, y in zip(v, flat, strict=True)) for v in dense(space, batch).tolist()]
    projections = filled.project(direction)
    assert projections.dtype == torch.float64
    torch.testing.assert_close(projections, torch.tensor(expected, dtype=torch.float64), rtol=1e-7, atol=1e-9 * scale)


@pytest.mark.parametrize("space", SPACES)
def test_squared_norms_are_those_of_the_vectors(space: str) -> None:
    batch = head_batch(83)
    filled = fill(new_space(space, batch), batch, sizes=[3, 14])
    expected = [sum(x * x for x in v) for v in dense(space, batch).tolist()]
    torch.testing.assert_close(filled.squared_norms(), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("space", SPACES)
def test_tokens_are_kept_in_the_order_of_the_appends(space: str) -> None:
    batch = head_batch(84)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    filled = fill(new_space(space, batch), batch, places=order, sizes=[9, 0, 1])
    assert torch.equal(filled.advantages, batch.advantages[order].double())
    assert filled.usable.tolist() == [True] * 40
    torch.testing.assert_close(filled.squared_norms(), dense(space, batch).square().sum(dim=1)[order])


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("bad", BAD)
def test_an_unusable_token_is_in_no_sum(space: str, bad: float) -> None:
    batch = head_batch(85)
    broken = batch.hidden.clone()
    broken[7, 1] = bad
    filled, log_probs = new_space(space, batch), batch.log_probs
    for part in torch.arange(40).split([5, 20, 15]):
        filled.append(broken[part], log_probs[part], batch.targets[part], batch.advantages[part])
    assert torch.nonzero(~filled.usable).flatten().tolist() == [7]
    keep = torch.arange(40) != 7
    vectors, sides = dense(space, batch)[keep].tolist(), (batch.advantages > 0)[keep].tolist()
    expected = naive_sums(vectors, batch.advantages.abs()[keep].tolist(), sides)
    torch.testing.assert_close(filled.advantage_sums().flatten(1), expected)
    expected = naive_sums(vectors, [1.0] * 39, sides)
    torch.testing.assert_close(filled.sums(torch.ones(40, dtype=torch.float64)).flatten(1), expected)
    assert torch.isfinite(filled.project(filled.advantage_sums()[0])).all()
    assert filled.squared_norms()[7] == 0


@pytest.mark.parametrize("space", SPACES)
def test_a_rank_without_tokens_has_sums_of_zero(space: str) -> None:
    batch = head_batch(86)
    filled = fill(new_space(space, batch), batch, places=torch.empty(0, dtype=torch.int64))
    direction = torch.ones_like(filled.advantage_sums()[0])
    assert not filled.advantage_sums().any()
    assert filled.sums(torch.zeros(0, dtype=torch.float64)).shape == (2, *direction.shape)
    for answer in (filled.advantages, filled.usable, filled.project(direction), filled.squared_norms()):
        assert answer.shape == (0,)


@pytest.mark.parametrize("space", SPACES)
def test_appended_tensors_are_not_written_to_and_carry_no_gradient(space: str) -> None:
    batch = head_batch(87)
    hidden, log_probs = batch.hidden.clone(), batch.log_probs
    hidden[3, 0] = math.nan
    before = hidden.clone()
    filled = new_space(space, batch)
    filled.append(hidden.requires_grad_(), log_probs, batch.targets, batch.advantages)
    estimate_credit(filled, neutral_tokens=0)
    assert torch.equal(hidden.nan_to_num(), before.nan_to_num())
    assert not filled.advantage_sums().requires_grad


@pytest.mark.parametrize("space", SPACES)
def test_wrong_shapes_are_refused(space: str) -> None:
    batch = head_batch(88, tokens=3)
    hidden, log_probs, targets, advantages = batch.hidden, batch.log_probs, batch.targets, batch.advantages
    with pytest.raises(ValueError, match="got shape"):
        new_space(space, batch).append(hidden[:2], log_probs, targets, advantages)
    with pytest.raises(ValueError, match="got shape"):
        new_space(space, batch).append(hidden, log_probs, targets, advantages[:2])
    with pytest.raises(ValueError, match="got shape"):
        new_space(space, batch).append(hidden[0], log_probs[:1], targets[:1], advantages[:1])


def test_side_weights_keep_the_sides_apart() -> None:
    weights = side_weights(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([True, False, True]))
    assert weights.tolist() == [[1.0, 0.0, 3.0], [0.0, 2.0, 0.0]]


def test_members_start_with_nobody() -> None:
    members = Members()
    assert members.advantages.shape == members.usable.shape == (0,)
    assert (members.advantages.dtype, members.usable.dtype) == (torch.float64, torch.bool)


# --- memory ---


class LargestTensor(TorchDispatchMode):
    """Remembers the largest tensor that an operation made; a view of what was there before is none."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0
        self.operation = ""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor) and not func.is_view and tensor.numel() > self.numbers:
                self.numbers, self.operation = tensor.numel(), str(func)
        return result


@pytest.mark.parametrize("margins", [two_sided_margins, within_side_margins])
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_estimate_makes_nothing_of_the_size_of_the_cache(
    space: str, dtype: torch.dtype, margins: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, hidden, vocabulary, chunk = 4000, 32, 50, 4096
    batch = head_batch(89, tokens=tokens, hidden=hidden, vocabulary=vocabulary, dtype=dtype)
    filled = fill(new_space(space, batch), batch, sizes=[1500, 2000])
    monkeypatch.setitem(CHUNK_ELEMENTS, "cpu", chunk)
    with LargestTensor() as largest:
        estimate_credit(filled, neutral_tokens=5, refinements=2, margins=margins)
    # A chunk, two numbers per token, or a pair of centroids; the cache has 32 numbers per token and the logits 50.
    allowed = max(chunk, 2 * tokens, 2 * vocabulary * hidden)
    assert allowed < tokens * hidden / 10
    assert 0 < largest.numbers <= allowed, largest.operation
