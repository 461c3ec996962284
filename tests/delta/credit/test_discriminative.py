import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from delta.collectives import AllReduce
from delta.credit import (
    CreditInputs,
    DiscriminativeConfig,
    LastLayerProxy,
    Proxy,
    RowProxy,
    SidedCredit,
    discriminative_coefficients,
    estimate_credit,
)
from delta.credit.cache import CHUNK_ELEMENTS
from delta.credit.discriminative import CacheDtype
from tests.delta.credit.reference import (
    HeadBatch,
    fill,
    head_batch,
    make_old_tokens,
    naive_coefficients,
    on_ranks,
    random_tokens,
    sigmoid,
)


def row_space(vectors: Tensor, advantages: Tensor) -> RowProxy:
    space = RowProxy()
    space.append_vectors(vectors, advantages)
    return space


Reductions = list[list[tuple[int, ...]]]


def estimate_on_ranks(
    vectors: Tensor, advantages: Tensor, owner: Tensor, *, ranks: int, refinements: int
) -> tuple[list[SidedCredit], Reductions]:
    """The estimator on every rank, each with the tokens that it owns; also the shapes of its sums."""

    def run(rank: int, all_reduce: AllReduce) -> SidedCredit:
        mine = owner == rank
        sided = mine & (advantages != 0)
        return estimate_credit(
            row_space(vectors[sided], advantages[sided]),
            neutral_tokens=int((mine & (advantages == 0)).sum()),
            refinements=refinements,
            all_reduce=all_reduce,
        )

    return on_ranks(ranks, run)


def gather(credits: Sequence[SidedCredit], advantages: Tensor, owner: Tensor) -> Tensor:
    """The coefficients of all tokens, put back in their places."""
    coefficients = torch.empty(len(advantages))
    for rank, credit in enumerate(credits):
        mine = owner == rank
        coefficients[mine & (advantages == 0)] = credit.neutral_coefficient
        coefficients[mine & (advantages != 0)] = credit.coefficients
    return coefficients


# Side +: v = 1 with A = 3 and v = 5 with A = 1, so mu+ = 2.  Side -: v = -3 with |A| = 1 and v = 0 with |A| = 2, so
# mu- = -1. Margins (v + 1)^2 - (v - 2)^2 = 6 v - 3: 3 and 27, deviation 12; negated 21 and 3, deviation 9.
HAND_VECTORS = torch.tensor([[1.0], [5.0], [-3.0], [0.0], [100.0]])
HAND_ADVANTAGES = torch.tensor([3.0, 1.0, -1.0, -2.0, 0.0])


def test_hand_worked_batch_without_refinement() -> None:
    raw = torch.tensor([0.8 + 0.4 * sigmoid(x) for x in (3 / 12, 27 / 12, 21 / 9, 3 / 9)] + [0.8])
    coefficients = discriminative_coefficients(HAND_VECTORS, HAND_ADVANTAGES, refinements=0)
    torch.testing.assert_close(coefficients, raw / raw.mean())


def test_hand_worked_temperatures_are_of_the_plus_and_the_minus_side() -> None:
    credit = estimate_credit(row_space(HAND_VECTORS[:4], HAND_ADVANTAGES[:4]), neutral_tokens=1, refinements=0)
    assert credit.temperatures == pytest.approx((12.0, 9.0))
    assert not credit.degenerate


def test_side_means_are_those_of_the_coefficients() -> None:
    vectors, advantages = random_tokens(5, tokens=300, neutral=0.4)
    vectors[0] = torch.nan
    advantages[0] = 1.0
    sided = advantages != 0
    credit = estimate_credit(row_space(vectors[sided], advantages[sided]), neutral_tokens=int((~sided).sum()))
    usable = torch.arange(int(sided.sum())) > 0
    for mean, side in zip(credit.side_means, (advantages[sided] > 0, advantages[sided] < 0), strict=True):
        assert mean == pytest.approx(credit.coefficients[side & usable].double().mean().item(), abs=1e-6)


def test_certain_tokens_are_told_apart_by_the_centroids_alone() -> None:
    # A token of probability 1 has the vector 0 and the margin |mu_other|^2 - |mu_own|^2, whatever it is: the side with
    # the shorter centroid gets the larger coefficients. The paper's formula says so; the metrics show it.
    vectors = torch.tensor([[3.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    advantages = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0])
    coefficients = discriminative_coefficients(vectors, advantages, refinements=0)
    assert coefficients[1] == coefficients[2] < coefficients[4] == coefficients[5]


def test_temperature_does_not_fall_below_its_floor() -> None:
    # A thousandth of the hand-worked vectors: margins and deviations are a millionth, 12e-6 and 9e-6.
    raw = torch.tensor([0.8 + 0.4 * sigmoid(x * 1e-6 / 1e-4) for x in (3, 27, 21, 3)] + [0.8])
    coefficients = discriminative_coefficients(HAND_VECTORS / 1000, HAND_ADVANTAGES, refinements=0)
    torch.testing.assert_close(coefficients, raw / raw.mean())


def test_hand_worked_batch_with_one_refinement() -> None:
    # Mirror images: mu = +-2, margins 8 |v| = 8 and 24, deviation 8, alpha sigmoid(1) and sigmoid(3). The centroids
    # move to +-c and the margins to 4 c |v|, divided by the deviation 8 of the first round.
    vectors = torch.tensor([[1.0], [3.0], [-1.0], [-3.0]])
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0])
    c = (sigmoid(1) + 3 * sigmoid(3)) / (sigmoid(1) + sigmoid(3))
    near, far = 0.8 + 0.4 * sigmoid(4 * c / 8), 0.8 + 0.4 * sigmoid(12 * c / 8)
    expected = torch.tensor([near, far, near, far]) * 2 / (near + far)
    torch.testing.assert_close(discriminative_coefficients(vectors, advantages, refinements=1), expected)


def test_second_refinement_still_uses_the_first_temperature() -> None:
    # The lag: after K = 2 the temperature is the deviation of the margins 4 c |v| of the first round's centroids.
    vectors = torch.tensor([[1.0], [3.0], [-1.0], [-3.0]])
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0])
    c = (sigmoid(1) + 3 * sigmoid(3)) / (sigmoid(1) + sigmoid(3))
    credit = estimate_credit(row_space(vectors, advantages), neutral_tokens=0, refinements=2)
    assert credit.temperatures == pytest.approx((4 * c, 4 * c))


@pytest.mark.parametrize("refinements", [0, 1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_coefficients_equal_the_naive_loop(seed: int, refinements: int) -> None:
    vectors, advantages = random_tokens(seed)
    expected = naive_coefficients(
        vectors.double().tolist(), advantages.tolist(), refinements=refinements, lambda_min=0.8, lambda_max=1.2
    )
    coefficients = discriminative_coefficients(vectors, advantages, refinements=refinements)
    torch.testing.assert_close(coefficients, torch.tensor(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("bounds", [(0.8, 1.2), (0.1, 3.0), (1.0, 1.0)])
def test_other_bounds_equal_the_naive_loop(bounds: tuple[float, float]) -> None:
    vectors, advantages = random_tokens(9)
    low, high = bounds
    expected = naive_coefficients(
        vectors.double().tolist(), advantages.tolist(), refinements=1, lambda_min=low, lambda_max=high
    )
    coefficients = discriminative_coefficients(vectors, advantages, lambda_min=low, lambda_max=high)
    torch.testing.assert_close(coefficients, torch.tensor(expected), rtol=0, atol=1e-6)


def test_defaults_are_the_papers() -> None:
    config = DiscriminativeConfig()
    assert (config.refinements, config.lambda_min, config.lambda_max) == (1, 0.8, 1.2)
    assert (config.proxy, config.temperature) == (Proxy.row, None)
    vectors, advantages = random_tokens(3)
    explicit = discriminative_coefficients(vectors, advantages, refinements=1, lambda_min=0.8, lambda_max=1.2)
    assert torch.equal(discriminative_coefficients(vectors, advantages), explicit)


@pytest.mark.parametrize("refinements", [0, 1, 3])
def test_mean_is_one_and_bounds_hold(refinements: int) -> None:
    vectors, advantages = random_tokens(5, tokens=300, neutral=0.4)
    coefficients = discriminative_coefficients(vectors, advantages, refinements=refinements)
    assert coefficients.dtype == torch.float32
    assert coefficients.double().mean().item() == pytest.approx(1.0, abs=1e-6)
    # A token of advantage 0 has exactly lambda_min / mean, which tells the mean that the raw values were divided by.
    lowest = coefficients[advantages == 0][0].item()
    assert coefficients.min().item() >= lowest - 1e-6
    assert coefficients.max().item() <= lowest * 1.2 / 0.8 + 1e-6


def test_tokens_without_advantage_share_the_lowest_coefficient() -> None:
    vectors, advantages = random_tokens(6)
    neutral = discriminative_coefficients(vectors, advantages)[advantages == 0]
    assert len(neutral) > 1
    assert len(neutral.unique()) == 1
    assert neutral[0] < discriminative_coefficients(vectors, advantages)[advantages != 0].min()


def test_vectors_of_tokens_without_advantage_do_not_matter() -> None:
    vectors, advantages = random_tokens(6)
    other = vectors.clone()
    other[advantages == 0] = 1e6
    assert torch.equal(discriminative_coefficients(vectors, advantages), discriminative_coefficients(other, advantages))


@pytest.mark.parametrize(
    "advantages",
    [[1.0, 2.0, 0.5], [-1.0, -2.0, -0.5], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]],
    ids=["only plus", "only minus", "all zero", "plus and zero", "minus and zero"],
)
def test_one_empty_side_gives_all_ones(advantages: list[float]) -> None:
    vectors = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(discriminative_coefficients(vectors, torch.tensor(advantages)), torch.ones(3))


@pytest.mark.parametrize("advantage", [1.0, -1.0, 0.0])
def test_single_token_gets_one(advantage: float) -> None:
    assert torch.equal(discriminative_coefficients(torch.ones(1, 4), torch.tensor([advantage])), torch.ones(1))


def test_no_token_gives_no_coefficient() -> None:
    assert discriminative_coefficients(torch.empty(0, 4), torch.empty(0)).shape == (0,)


def test_degenerate_batch_says_so() -> None:
    credit = estimate_credit(row_space(torch.ones(2, 3), torch.ones(2)), neutral_tokens=5)
    assert credit.degenerate
    assert credit.neutral_coefficient == 1.0
    assert torch.equal(credit.coefficients, torch.ones(2))


def test_one_token_per_side_is_well_separated_and_equal() -> None:
    # Both margins are |v+ - v-|^2, the deviation is 0 and floored: both assignments saturate.
    coefficients = discriminative_coefficients(torch.eye(2), torch.tensor([1.0, -3.0]))
    torch.testing.assert_close(coefficients, torch.ones(2))


@pytest.mark.parametrize("refinements", [0, 1, 3])
def test_equal_vectors_tell_nothing_apart(refinements: int) -> None:
    # All margins are 0, so alpha is a half for every token that has a side.
    vectors = torch.full((5, 3), 0.7)
    advantages = torch.tensor([1.0, -2.0, 0.5, -0.1, 0.0])
    raw = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.8])
    coefficients = discriminative_coefficients(vectors, advantages, refinements=refinements)
    torch.testing.assert_close(coefficients, raw / raw.mean())


def test_token_of_its_own_side_gets_more_than_a_shared_one() -> None:
    shared = [[0.0, 0.0]] * 4
    vectors = torch.tensor([*shared, [1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0, 1.0, 1.0, -1.0, -1.0])
    coefficients = discriminative_coefficients(vectors, advantages)
    assert coefficients[4:].min() > coefficients[:4].max()


def test_token_typical_of_the_other_side_gets_less_than_a_shared_one() -> None:
    vectors = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0], [0.5, 0.5]] + [[0.0, 1.0]] * 4)
    advantages = torch.tensor([1.0] * 5 + [-1.0] * 4)
    coefficients = discriminative_coefficients(vectors, advantages)
    assert coefficients[3] < coefficients[4] < coefficients[0]


@pytest.mark.parametrize("scale", [1e-12, 1e6, 1e15, 1e18])
def test_extreme_norms_stay_finite(scale: float) -> None:
    vectors, advantages = random_tokens(7)
    coefficients = discriminative_coefficients(vectors * scale, advantages)
    assert torch.isfinite(coefficients).all()
    assert coefficients.double().mean().item() == pytest.approx(1.0, abs=1e-6)


def test_huge_norms_give_the_same_coefficients() -> None:
    vectors, advantages = random_tokens(7)
    torch.testing.assert_close(
        discriminative_coefficients(vectors * 2.0**40, advantages), discriminative_coefficients(vectors, advantages)
    )


def test_a_single_huge_vector_stays_finite() -> None:
    vectors, advantages = random_tokens(8)
    vectors[0] *= 1e15
    coefficients = discriminative_coefficients(vectors, advantages, refinements=3)
    assert torch.isfinite(coefficients).all()
    assert (coefficients > 0).all()


@pytest.mark.parametrize("refinements", [0, 1, 3])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_coefficients_do_not_depend_on_the_ranks(ranks: int, refinements: int) -> None:
    vectors, advantages = random_tokens(20 + ranks, tokens=80)
    owner = torch.randint(ranks, (80,), generator=torch.Generator().manual_seed(ranks))
    credits, _ = estimate_on_ranks(vectors, advantages, owner, ranks=ranks, refinements=refinements)
    expected = discriminative_coefficients(vectors, advantages, refinements=refinements)
    torch.testing.assert_close(gather(credits, advantages, owner), expected, rtol=0, atol=1e-5)
    assert len({credit.neutral_coefficient for credit in credits}) == 1
    assert len({credit.temperatures for credit in credits}) == 1


def test_rank_without_tokens_and_rank_with_one_side_take_part() -> None:
    vectors, advantages = random_tokens(30)
    owner = torch.where(advantages > 0, 0, 1)  # rank 2 has nothing
    credits, _ = estimate_on_ranks(vectors, advantages, owner, ranks=3, refinements=1)
    expected = discriminative_coefficients(vectors, advantages)
    torch.testing.assert_close(gather(credits, advantages, owner), expected, rtol=0, atol=1e-5)
    assert not any(credit.degenerate for credit in credits)
    assert credits[2].coefficients.shape == (0,)


def test_all_ranks_agree_that_a_batch_is_degenerate() -> None:
    vectors, advantages = random_tokens(31)
    owner = torch.arange(len(advantages)) % 2
    credits, shapes = estimate_on_ranks(vectors, advantages.abs(), owner, ranks=2, refinements=1)
    assert all(credit.degenerate for credit in credits)
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("refinements", [0, 1, 3])
def test_ranks_make_the_same_small_reductions(refinements: int) -> None:
    vectors, advantages = random_tokens(32, hidden=5)
    owner = torch.arange(len(advantages)) % 3
    _, shapes = estimate_on_ranks(vectors, advantages, owner, ranks=3, refinements=refinements)
    assert shapes[0] == shapes[1] == shapes[2]
    sizes = [math.prod(shape) for shape in shapes[0]]
    assert [size for size in sizes if size > 4] == [2 * 5] * (refinements + 1)  # a pair of centroids each


@pytest.mark.parametrize("chunk", [1, 7, 10_000])
def test_chunking_changes_nothing(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, advantages = random_tokens(40)
    expected = discriminative_coefficients(vectors, advantages, refinements=2)
    monkeypatch.setitem(CHUNK_ELEMENTS, "cpu", chunk)
    coefficients = discriminative_coefficients(vectors, advantages, refinements=2)
    torch.testing.assert_close(coefficients, expected, rtol=0, atol=3e-7)  # two units in the last place


def test_bfloat16_vectors_are_close_to_float32() -> None:
    vectors, advantages = random_tokens(41, tokens=400, hidden=32)
    expected = discriminative_coefficients(vectors, advantages)
    coefficients = discriminative_coefficients(vectors.bfloat16(), advantages)
    assert coefficients.dtype == torch.float32
    torch.testing.assert_close(coefficients, expected, rtol=0, atol=2e-3)


def test_bfloat16_vectors_are_accumulated_exactly() -> None:
    vectors, advantages = random_tokens(42, tokens=400, hidden=32)
    rounded = vectors.bfloat16()
    torch.testing.assert_close(
        discriminative_coefficients(rounded, advantages), discriminative_coefficients(rounded.float(), advantages)
    )


def test_nothing_is_written_in_place() -> None:
    vectors, advantages = random_tokens(43)
    before = vectors.clone(), advantages.clone()
    discriminative_coefficients(vectors, advantages, refinements=2)
    assert torch.equal(vectors, before[0])
    assert torch.equal(advantages, before[1])


def test_coefficients_carry_no_gradient() -> None:
    vectors, advantages = random_tokens(44)
    assert not discriminative_coefficients(vectors.requires_grad_(), advantages).requires_grad


@pytest.mark.parametrize(
    "call",
    [
        lambda: discriminative_coefficients(torch.ones(3), torch.ones(3)),
        lambda: discriminative_coefficients(torch.ones(3, 2), torch.ones(4)),
        lambda: discriminative_coefficients(torch.ones(3, 2), torch.ones(3, 1)),
    ],
)
def test_wrong_shapes_are_refused(call: Callable[[], Tensor]) -> None:
    with pytest.raises(ValueError, match="got shape"):
        call()


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"refinements": -1}, "refinements"),
        ({"lambda_min": 0.0}, "lambda_min"),
        ({"lambda_min": -0.5}, "lambda_min"),
        ({"lambda_min": 1.3}, "lambda_max"),
        ({"lambda_min": math.nan}, "lambda_min"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"device_cache_gib": -1.0}, "device_cache_gib"),
        ({"device_cache_gib": math.nan}, "device_cache_gib"),
    ],
)
def test_config_refuses_what_cannot_work(settings: dict[str, float], name: str) -> None:
    with pytest.raises(ValueError, match=f"credit.{name}"):
        DiscriminativeConfig(**settings)


def test_config_allows_equal_bounds() -> None:
    assert DiscriminativeConfig(lambda_min=1.0, lambda_max=1.0).lambda_max == 1.0


# --- unusable vectors ---

BAD = (math.nan, math.inf, -math.inf)


@pytest.mark.parametrize("refinements", [0, 1, 3])
@pytest.mark.parametrize("ranks", [1, 3])
def test_a_token_whose_vector_is_not_finite_counts_as_one_without_a_side(ranks: int, refinements: int) -> None:
    vectors, advantages = random_tokens(50, tokens=80)
    sided = torch.nonzero(advantages).squeeze(1)
    bad = sided[::7]
    without_side = advantages.clone()
    without_side[bad] = 0.0
    expected = discriminative_coefficients(vectors, without_side, refinements=refinements)
    broken = vectors.clone()
    for number, token in enumerate(bad.tolist()):
        broken[token, number % vectors.shape[1]] = BAD[number % 3]
    owner = torch.arange(len(advantages)) % ranks
    credits, _ = estimate_on_ranks(broken, advantages, owner, ranks=ranks, refinements=refinements)
    torch.testing.assert_close(gather(credits, advantages, owner), expected, rtol=0, atol=1e-6)
    assert {credit.unusable_tokens for credit in credits} == {len(bad)}
    assert {credit.degenerate for credit in credits} == {False}


def test_a_side_without_a_finite_vector_leaves_nothing_to_discriminate() -> None:
    vectors, advantages = random_tokens(51, neutral=0.0)
    vectors[advantages < 0] = math.nan
    credit = estimate_credit(row_space(vectors, advantages), neutral_tokens=3)
    assert credit.degenerate
    assert credit.unusable_tokens == int((advantages < 0).sum())
    assert torch.equal(credit.coefficients, torch.ones(len(advantages)))
    assert credit.neutral_coefficient == 1.0


def test_no_finite_vector_at_all_gives_ones() -> None:
    advantages = torch.tensor([1.0, -1.0, 2.0, 0.0])
    assert torch.equal(discriminative_coefficients(torch.full((4, 3), math.nan), advantages), torch.ones(4))


# --- extreme norms ---


@pytest.mark.parametrize("hidden", [1, 7, 64])
@pytest.mark.parametrize("largest", [1e30, 1e37, 3e38])
def test_vectors_up_to_the_range_of_float32_give_the_coefficients_of_smaller_ones(hidden: int, largest: float) -> None:
    vectors, advantages = random_tokens(53, hidden=hidden)
    vectors /= vectors.abs().max()
    expected = discriminative_coefficients(vectors.double() * 1e6, advantages)
    torch.testing.assert_close(discriminative_coefficients(vectors * largest, advantages), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-8, 1e-30, 1e-42])
def test_tiny_vectors_tell_nothing_apart(scale: float) -> None:
    # The floor of the temperature decides: all margins are next to nothing against it.
    vectors, advantages = random_tokens(54)
    raw = torch.where(advantages != 0, 1.0, 0.8)
    torch.testing.assert_close(discriminative_coefficients(vectors * scale, advantages), raw / raw.mean())


# --- the configuration at work ---


def estimate(config: DiscriminativeConfig, batch: HeadBatch, **inputs: object) -> tuple[Tensor, dict[str, float]]:
    """One row per token, so that each may have an advantage of its own."""
    tokens = make_old_tokens([1] * len(batch.targets), advantages=batch.advantages.tolist())
    found = config.estimate(CreditInputs(tokens=tokens, space=fill(config.new_space(batch.logits), batch), **inputs))
    return found.coefficients, dict(found.metrics)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"refinements": 3},
        {"lambda_min": 0.3, "lambda_max": 2.0},
        {"temperature": 2.5},
        {"temperature": 0.3, "refinements": 2},
        {"proxy": Proxy.last_layer},
        {"proxy": Proxy.last_layer, "refinements": 0, "temperature": 1.5},
    ],
    ids=str,
)
def test_config_gives_the_coefficients_of_the_naive_loop(settings: dict[str, object]) -> None:
    batch = head_batch(60)
    config = DiscriminativeConfig(**settings)
    dense = batch.head_gradients() if config.proxy is Proxy.last_layer else batch.row_vectors()
    plain = {name: value for name, value in settings.items() if name != "proxy"}
    expected = naive_coefficients(dense.tolist(), batch.advantages.tolist(), **plain)
    coefficients, metrics = estimate(config, batch)
    torch.testing.assert_close(coefficients, torch.tensor(expected), rtol=0, atol=1e-6)
    if config.temperature is not None:
        temperatures = metrics["credit/temperature_positive"], metrics["credit/temperature_negative"]
        assert temperatures == pytest.approx((config.temperature, config.temperature))


def test_a_fixed_temperature_is_one_for_both_sides_and_all_rounds() -> None:
    # The hand-worked margins 3, 27, 21, 3 divided by 6.
    raw = torch.tensor([0.8 + 0.4 * sigmoid(x / 6) for x in (3, 27, 21, 3)])
    space = row_space(HAND_VECTORS[:4], HAND_ADVANTAGES[:4])
    credit = estimate_credit(space, neutral_tokens=0, refinements=0, temperature=6.0)
    torch.testing.assert_close(credit.coefficients, raw / raw.mean())
    assert credit.temperatures == (6.0, 6.0)


def test_coefficients_go_to_the_places_of_their_tokens() -> None:
    # Rows of 3, 2, 2 and 1 tokens; one row without advantage, two tokens off the loss mask.
    loss_mask = torch.tensor([1, 0, 1, 1, 1, 1, 0, 1], dtype=torch.bool)
    tokens = make_old_tokens([3, 2, 2, 1], advantages=[1.0, 0.0, -2.0, 0.5], loss_mask=loss_mask)
    sided = torch.tensor([0, 2, 5, 7])
    vectors, _ = random_tokens(61, tokens=8)
    config = DiscriminativeConfig()
    space = config.new_space(lambda hidden: hidden)
    space.append_vectors(vectors[sided], tokens.advantages[sided])
    found = config.estimate(CreditInputs(tokens=tokens, space=space))
    expected = torch.zeros(8)
    on_mask = torch.nonzero(loss_mask).squeeze(1)
    expected[on_mask] = torch.tensor(
        naive_coefficients(vectors[on_mask].tolist(), tokens.advantages[on_mask].tolist(), refinements=1)
    )
    torch.testing.assert_close(found.coefficients, expected)
    assert found.coefficients.dtype == torch.float32
    assert found.coefficients[loss_mask].mean().item() == pytest.approx(1.0)
    assert found.metrics["credit/degenerate"] == 0.0
    assert found.metrics["credit/unusable_tokens"] == 0.0


def test_metrics_tell_temperatures_and_unusable_tokens() -> None:
    space = row_space(torch.cat([HAND_VECTORS[:4], torch.tensor([[math.nan]])]), torch.tensor([3.0, 1.0, -1, -2, 5.0]))
    tokens = make_old_tokens([1] * 5, advantages=[3.0, 1.0, -1.0, -2.0, 5.0])
    metrics = DiscriminativeConfig(refinements=0).estimate(CreditInputs(tokens=tokens, space=space)).metrics
    raw = [0.8 + 0.4 * sigmoid(x) for x in (3 / 12, 27 / 12, 21 / 9, 3 / 9)]
    mean = (sum(raw) + 0.8) / 5
    assert metrics == {
        "credit/degenerate": 0.0,
        "credit/temperature_positive": pytest.approx(12.0),
        "credit/temperature_negative": pytest.approx(9.0),
        "credit/lambda_positive": pytest.approx((raw[0] + raw[1]) / 2 / mean),
        "credit/lambda_negative": pytest.approx((raw[2] + raw[3]) / 2 / mean),
        "credit/unusable_tokens": 1.0,
    }


def test_a_degenerate_batch_is_ones_on_the_loss_mask_and_says_so() -> None:
    tokens = make_old_tokens([2, 1], advantages=[1.0, 0.0], loss_mask=torch.tensor([True, False, True]))
    space = row_space(torch.ones(1, 2), torch.ones(1))
    found = DiscriminativeConfig().estimate(CreditInputs(tokens=tokens, space=space))
    assert found.coefficients.tolist() == [1.0, 0.0, 1.0]
    assert found.metrics["credit/degenerate"] == 1.0


def test_neutral_tokens_off_the_loss_mask_are_not_counted() -> None:
    vectors, advantages = random_tokens(62, tokens=6, neutral=0.0)
    space = row_space(vectors, advantages)
    expected = estimate_credit(space, neutral_tokens=2).neutral_coefficient
    loss_mask = torch.tensor([True] * 6 + [False, True, True])
    tokens = make_old_tokens([1] * 6 + [3], advantages=[*advantages.tolist(), 0.0], loss_mask=loss_mask)
    coefficients = DiscriminativeConfig().estimate(CreditInputs(tokens=tokens, space=space)).coefficients
    assert coefficients[6:].tolist() == pytest.approx([0.0, expected, expected])


@pytest.mark.parametrize("refinements", [0, 1, 3])
def test_an_estimate_leaves_the_space_as_it_was(refinements: int) -> None:
    vectors, advantages = random_tokens(63, neutral=0.0)
    owner = torch.arange(len(advantages)) % 2
    spaces = [row_space(vectors[owner == rank], advantages[owner == rank]) for rank in range(2)]

    def run(rank: int, all_reduce: AllReduce) -> list[Tensor]:
        return [
            estimate_credit(spaces[rank], neutral_tokens=0, refinements=refinements, all_reduce=all_reduce).coefficients
            for _ in range(2)
        ]

    for first, second in on_ranks(2, run)[0]:
        assert torch.equal(first, second)


def test_new_space_is_the_one_asked_for() -> None:
    assert isinstance(DiscriminativeConfig().new_space(lambda hidden: hidden), RowProxy)
    assert isinstance(DiscriminativeConfig(proxy=Proxy.last_layer).new_space(lambda hidden: hidden), LastLayerProxy)


@pytest.mark.parametrize("proxy", Proxy)
@pytest.mark.parametrize(
    ("cache_dtype", "same_as"),
    [(CacheDtype.model, torch.float64), (CacheDtype.float32, torch.float32), (CacheDtype.bfloat16, torch.bfloat16)],
)
def test_cache_dtype_rounds_what_is_kept(proxy: Proxy, cache_dtype: CacheDtype, same_as: torch.dtype) -> None:
    batch = head_batch(64)
    config = DiscriminativeConfig(proxy=proxy, cache_dtype=cache_dtype)
    space = fill(config.new_space(batch.logits), batch)
    expected = batch.row_vectors() if proxy is Proxy.row else batch.hidden
    (_, rows), *_ = space._cache.chunks()
    assert torch.equal(rows, expected.to(same_as).to(torch.promote_types(same_as, torch.float32)))
