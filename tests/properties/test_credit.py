"""What must not matter to credit does not matter: order, ranks, micro-batches, rotations, shifts, scales, sides."""

import math
from collections.abc import Callable

import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from delta.collectives import AllReduce
from delta.credit import (
    LastLayerProxy,
    RowProxy,
    SidedCredit,
    TokenSpace,
    discriminative_coefficients,
    estimate_credit,
    future_kl,
    top_share,
)
from delta.credit.discriminative import Margins, two_sided_margins
from delta.credit.within_side import within_side_margins
from tests.delta.credit.reference import HeadBatch, fill, on_ranks

SEEDS = st.integers(0, 2**31 - 1)
MARGINS = st.sampled_from([two_sided_margins, within_side_margins])


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- vectors ---


@st.composite
def tokens(draw: st.DrawFn) -> tuple[Tensor, Tensor, int]:
    """Float64 vectors, advantages with and without a side, and K; both sides have a token."""
    count, hidden = draw(st.integers(2, 30)), draw(st.integers(1, 6))
    generator = seeded(draw(SEEDS))
    vectors = torch.randn(count, hidden, generator=generator, dtype=torch.float64) + draw(st.floats(-3, 3))
    sign = torch.tensor(draw(st.lists(st.sampled_from([-1, 0, 1]), min_size=count, max_size=count)))
    assume((sign > 0).any() and (sign < 0).any())
    advantages = sign * (torch.rand(count, generator=generator) + 0.05)
    vectors[:, 0] += draw(st.floats(0, 2)) * sign
    return vectors, advantages, draw(st.integers(0, 3))


Tokens = tuple[Tensor, Tensor, int]


def assert_same(coefficients: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(coefficients, expected, rtol=0, atol=1e-5)


@given(tokens(), st.floats(0.05, 1.0), st.floats(0.0, 5.0))
def test_coefficients_have_mean_one_and_keep_their_bounds(case: Tokens, lambda_min: float, width: float) -> None:
    vectors, advantages, refinements = case
    lambda_max = lambda_min + width
    coefficients = discriminative_coefficients(
        vectors, advantages, refinements=refinements, lambda_min=lambda_min, lambda_max=lambda_max
    ).double()
    assert abs(coefficients.mean().item() - 1) < 1e-5
    # The raw mean lies between the bounds, and so does every raw coefficient: their ratios are bounded.
    assert coefficients.max() <= coefficients.min() * (lambda_max / lambda_min) * (1 + 1e-5)
    neutral = coefficients[advantages == 0]
    if len(neutral):
        mean = lambda_min / neutral[0]
        assert (neutral == neutral[0]).all()
        assert coefficients.min() >= lambda_min / mean - 1e-5
        assert coefficients.max() <= lambda_max / mean + 1e-5


@given(tokens(), SEEDS)
def test_coefficients_permute_with_the_tokens(case: Tokens, seed: int) -> None:
    vectors, advantages, refinements = case
    order = torch.randperm(len(advantages), generator=seeded(seed))
    expected = discriminative_coefficients(vectors, advantages, refinements=refinements)[order]
    assert_same(discriminative_coefficients(vectors[order], advantages[order], refinements=refinements), expected)


@given(tokens(), st.floats(1e-3, 1e3))
def test_coefficients_ignore_a_common_factor_of_the_advantages(case: Tokens, factor: float) -> None:
    vectors, advantages, refinements = case
    expected = discriminative_coefficients(vectors, advantages, refinements=refinements)
    assert_same(discriminative_coefficients(vectors, advantages * factor, refinements=refinements), expected)


@given(tokens(), SEEDS)
def test_coefficients_ignore_a_rotation_of_the_vector_space(case: Tokens, seed: int) -> None:
    vectors, advantages, refinements = case
    size = vectors.shape[1]
    rotation, _ = torch.linalg.qr(torch.randn(size, size, generator=seeded(seed), dtype=torch.float64))
    expected = discriminative_coefficients(vectors, advantages, refinements=refinements)
    assert_same(discriminative_coefficients(vectors @ rotation, advantages, refinements=refinements), expected)


@given(tokens(), st.floats(-50, 50))
def test_coefficients_ignore_a_shift_of_the_vector_space(case: Tokens, shift: float) -> None:
    # What all tokens share cancels in the margin: only what tells the sides apart counts.
    vectors, advantages, refinements = case
    expected = discriminative_coefficients(vectors, advantages, refinements=refinements)
    assert_same(discriminative_coefficients(vectors + shift, advantages, refinements=refinements), expected)


@given(tokens(), st.floats(1.0, 1e4))
def test_coefficients_ignore_a_scale_of_the_vector_space(case: Tokens, scale: float) -> None:
    vectors, advantages, refinements = case
    for side in (advantages > 0, advantages < 0):
        assume(side.sum() > 1 and len(vectors[side].unique(dim=0)) > 1)  # else the temperature sits on its floor
    vectors = vectors * 100  # far from the floor, which is the one thing that has a unit
    expected = discriminative_coefficients(vectors, advantages, refinements=refinements)
    assert_same(discriminative_coefficients(vectors * scale, advantages, refinements=refinements), expected)


@given(tokens())
def test_coefficients_ignore_which_side_is_right(case: Tokens) -> None:
    vectors, advantages, refinements = case
    expected = discriminative_coefficients(vectors, advantages, refinements=refinements)
    assert_same(discriminative_coefficients(vectors, -advantages, refinements=refinements), expected)


@given(tokens(), st.integers(1, 4))
def test_coefficients_ignore_repetition_of_the_whole_batch(case: Tokens, times: int) -> None:
    vectors, advantages, refinements = case
    expected = discriminative_coefficients(vectors, advantages, refinements=refinements).repeat(times)
    repeated = discriminative_coefficients(vectors.repeat(times, 1), advantages.repeat(times), refinements=refinements)
    assert_same(repeated, expected)


def on_shares(
    space: Callable[[int, Tensor], TokenSpace], owner: Tensor, neutral: Tensor, *, ranks: int, **settings: object
) -> list[SidedCredit]:
    """Every rank estimates from the tokens that it owns, `space(rank, places)`."""

    def run(rank: int, all_reduce: AllReduce) -> SidedCredit:
        mine = owner == rank
        return estimate_credit(
            space(rank, torch.nonzero(mine & ~neutral).squeeze(1)),
            neutral_tokens=int((mine & neutral).sum()),
            all_reduce=all_reduce,
            **settings,
        )

    return on_ranks(ranks, run)[0]


@given(tokens(), MARGINS, st.integers(1, 3), SEEDS)
def test_coefficients_ignore_ranks_and_micro_batches(case: Tokens, margins: Margins, ranks: int, seed: int) -> None:
    vectors, advantages, refinements = case
    generator = seeded(seed)
    owner = torch.randint(ranks, (len(advantages),), generator=generator)
    neutral = advantages == 0
    size = int(torch.randint(1, 8, (1,), generator=generator))

    def space(rank: int, places: Tensor) -> TokenSpace:
        rows = RowProxy()
        for part in places.split(size):
            rows.append_vectors(vectors[part], advantages[part])
        return rows

    settings = {"refinements": refinements, "margins": margins}
    (whole,) = on_shares(space, torch.zeros_like(owner), neutral, ranks=1, **settings)
    expected = torch.full((len(advantages),), whole.neutral_coefficient)
    expected[~neutral] = whole.coefficients
    for rank, credit in enumerate(on_shares(space, owner, neutral, ranks=ranks, **settings)):
        assert_same(credit.coefficients, expected[(owner == rank) & ~neutral])
        assert math.isclose(credit.neutral_coefficient, whole.neutral_coefficient, rel_tol=1e-6)


@given(tokens(), st.lists(st.integers(0, 29), min_size=1, max_size=5), st.sampled_from([math.nan, math.inf, -math.inf]))
def test_unusable_tokens_are_tokens_without_a_side(case: Tokens, places: list[int], bad: float) -> None:
    vectors, advantages, refinements = case
    broken, without_side = vectors.clone(), advantages.clone()
    for place in places:
        broken[place % len(advantages), place % vectors.shape[1]] = bad
        without_side[place % len(advantages)] = 0.0
    expected = discriminative_coefficients(vectors, without_side, refinements=refinements)
    assert_same(discriminative_coefficients(broken, advantages, refinements=refinements), expected)


@given(tokens(), SEEDS)
def test_closeness_ignores_a_rotation_of_the_vector_space_and_which_side_is_right(case: Tokens, seed: int) -> None:
    vectors, advantages, refinements = case
    size = vectors.shape[1]
    rotation, _ = torch.linalg.qr(torch.randn(size, size, generator=seeded(seed), dtype=torch.float64))
    keep = advantages != 0
    spaces = [RowProxy(), RowProxy()]
    spaces[0].append_vectors(vectors[keep], advantages[keep])
    spaces[1].append_vectors(vectors[keep] @ rotation, -advantages[keep])
    plain, turned = [
        estimate_credit(space, neutral_tokens=0, refinements=refinements, margins=within_side_margins)
        for space in spaces
    ]
    assert_same(turned.coefficients, plain.coefficients)


# --- gradients of a last layer ---


@st.composite
def heads(draw: st.DrawFn) -> tuple[HeadBatch, int]:
    """Float64 hidden states, a head, tokens and advantages, all of them with a side, and K."""
    count, hidden, vocabulary = draw(st.integers(2, 24)), draw(st.integers(1, 5)), draw(st.integers(2, 7))
    generator = seeded(draw(SEEDS))
    states = torch.randn(count, hidden, generator=generator, dtype=torch.float64) + draw(st.floats(-2, 2))
    head = torch.randn(vocabulary, hidden, generator=generator, dtype=torch.float64) * draw(st.floats(0, 2))
    targets = torch.randint(vocabulary, (count,), generator=generator)
    sign = torch.tensor(draw(st.lists(st.sampled_from([-1, 1]), min_size=count, max_size=count)))
    assume((sign > 0).any() and (sign < 0).any())
    advantages = sign * (torch.rand(count, generator=generator) + 0.05)
    states[:, 0] += draw(st.floats(0, 2)) * sign
    return HeadBatch(states, head, targets, advantages), draw(st.integers(0, 3))


Heads = tuple[HeadBatch, int]


def last_layer(batch: HeadBatch, refinements: int) -> Tensor:
    space = LastLayerProxy(batch.logits)
    return estimate_credit(fill(space, batch), neutral_tokens=3, refinements=refinements).coefficients


@given(heads(), SEEDS)
def test_last_layer_ignores_a_permutation_of_the_vocabulary(case: Heads, seed: int) -> None:
    batch, refinements = case
    order = torch.randperm(batch.head.shape[0], generator=seeded(seed))
    permuted = HeadBatch(batch.hidden, batch.head[order], order.argsort()[batch.targets], batch.advantages)
    assert_same(last_layer(permuted, refinements), last_layer(batch, refinements))


@given(heads(), SEEDS)
def test_last_layer_ignores_a_rotation_of_the_hidden_states(case: Heads, seed: int) -> None:
    batch, refinements = case
    size = batch.hidden.shape[1]
    rotation, _ = torch.linalg.qr(torch.randn(size, size, generator=seeded(seed), dtype=torch.float64))
    turned = HeadBatch(batch.hidden @ rotation, batch.head @ rotation, batch.targets, batch.advantages)
    assert_same(last_layer(turned, refinements), last_layer(batch, refinements))


@given(heads(), st.floats(-5, 5))
def test_last_layer_ignores_what_is_added_to_all_logits(case: Heads, shift: float) -> None:
    batch, refinements = case
    shifted = HeadBatch(batch.hidden, batch.head + shift, batch.targets, batch.advantages)
    assert_same(last_layer(shifted, refinements), last_layer(batch, refinements))


@given(heads())
def test_last_layer_ignores_which_side_is_right(case: Heads) -> None:
    batch, refinements = case
    swapped = HeadBatch(batch.hidden, batch.head, batch.targets, -batch.advantages)
    assert_same(last_layer(swapped, refinements), last_layer(batch, refinements))


@given(heads(), SEEDS)
def test_last_layer_permutes_with_the_tokens(case: Heads, seed: int) -> None:
    batch, refinements = case
    order = torch.randperm(len(batch.targets), generator=seeded(seed))
    permuted = HeadBatch(batch.hidden[order], batch.head, batch.targets[order], batch.advantages[order])
    assert_same(last_layer(permuted, refinements), last_layer(batch, refinements)[order])


@given(heads(), MARGINS, st.integers(1, 3), SEEDS)
def test_last_layer_ignores_ranks_and_micro_batches(case: Heads, margins: Margins, ranks: int, seed: int) -> None:
    batch, refinements = case
    generator = seeded(seed)
    owner = torch.randint(ranks, (len(batch.targets),), generator=generator)
    nobody = torch.zeros_like(owner, dtype=torch.bool)

    def space(rank: int, places: Tensor) -> TokenSpace:
        cut = int(torch.randint(len(places) + 1, (1,), generator=seeded(seed)))
        return fill(LastLayerProxy(batch.logits), batch, places=places, sizes=[cut])

    settings = {"refinements": refinements, "margins": margins}
    (whole,) = on_shares(space, torch.zeros_like(owner), nobody, ranks=1, **settings)
    for rank, credit in enumerate(on_shares(space, owner, nobody, ranks=ranks, **settings)):
        assert_same(credit.coefficients, whole.coefficients[owner == rank])


@given(heads())
def test_last_layer_equals_the_gradients_written_down(case: Heads) -> None:
    batch, refinements = case
    rows = RowProxy()
    rows.append_vectors(batch.head_gradients(), batch.advantages)
    expected = estimate_credit(rows, neutral_tokens=3, refinements=refinements).coefficients
    assert_same(last_layer(batch, refinements), expected)


# --- shares and futures ---

SCORES = st.floats(width=32, allow_nan=False) | st.sampled_from([0.0, -0.0, 1.0, -1.0])


@given(
    st.lists(st.tuples(SCORES, st.booleans(), st.integers(0, 2)), max_size=40),
    st.floats(0.0, 1.0, exclude_min=True),
    st.integers(1, 3),
)
def test_top_share_equals_sorting(tokens: list[tuple[float, bool, int]], share: float, ranks: int) -> None:
    eligible = sorted((score for score, candidate, _ in tokens if candidate), reverse=True)
    wanted = max(1, math.ceil(share * len(eligible)))
    threshold = eligible[wanted - 1] if eligible else math.inf
    held = [[token for token in tokens if token[2] % ranks == rank] for rank in range(ranks)]

    def run(rank: int, all_reduce: AllReduce) -> tuple[list[bool], int, int]:
        scores = torch.tensor([score for score, _, _ in held[rank]], dtype=torch.float32)
        candidates = torch.tensor([candidate for _, candidate, _ in held[rank]], dtype=torch.bool)
        selection = top_share(scores, candidates, share=share, all_reduce=all_reduce)
        return selection.selected.tolist(), selection.count, selection.candidates

    expected = [[candidate and score >= threshold for score, candidate, _ in mine] for mine in held]
    count = sum(map(sum, expected))
    assert on_ranks(ranks, run)[0] == [(mine, count, len(eligible)) for mine in expected]


@given(st.lists(st.integers(1, 400), min_size=1, max_size=4), st.floats(0.5, 100.0), SEEDS)
def test_futures_satisfy_their_recursion(lengths: list[int], half_life: float, seed: int) -> None:
    # F_t = delta_t + gamma F_(t + 1) within a row, across the blocks that it is computed in.
    rows = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    log_ratio = torch.randn(len(rows), generator=seeded(seed), dtype=torch.float64)
    future = future_kl(log_ratio, rows, half_life=half_life)
    following = torch.cat([future[1:] * (rows[1:] == rows[:-1]), torch.zeros(1, dtype=torch.float64)])
    torch.testing.assert_close(future, log_ratio + 2 ** (-1 / half_life) * following)
