import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from delta.credit import Credit, DiscriminativeConfig, discriminative, discriminative_coefficients, estimate_credit


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def naive_coefficients(
    vectors: Sequence[Sequence[float]],
    advantages: Sequence[float],
    *,
    refinements: int,
    lambda_min: float,
    lambda_max: float,
) -> list[float]:
    """ALGORITHM.md section 3, word by word: Python floats, explicit squared distances, one token at a time."""
    tokens = range(len(advantages))
    side = {+1: [i for i in tokens if advantages[i] > 0], -1: [i for i in tokens if advantages[i] < 0]}
    if not side[+1] or not side[-1]:
        return [1.0 for _ in tokens]

    def centroid(sign: int, alpha: dict[int, float]) -> list[float]:
        total = sum(abs(advantages[i]) * alpha[i] for i in side[sign])
        width = len(vectors[0])
        return [sum(abs(advantages[i]) * alpha[i] * vectors[i][h] for i in side[sign]) / total for h in range(width)]

    def squared_distance(a: Sequence[float], b: Sequence[float]) -> float:
        return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))

    def all_margins(mu: dict[int, list[float]]) -> dict[int, float]:
        return {
            i: squared_distance(vectors[i], mu[-sign]) - squared_distance(vectors[i], mu[sign])
            for sign in (+1, -1)
            for i in side[sign]
        }

    def deviation(margins: dict[int, float], sign: int) -> float:
        mean = sum(margins[i] for i in side[sign]) / len(side[sign])
        return max(math.sqrt(sum((margins[i] - mean) ** 2 for i in side[sign]) / len(side[sign])), 1e-4)

    def assignment(margins: dict[int, float], gamma: dict[int, float]) -> dict[int, float]:
        return {i: sigmoid(margins[i] / gamma[sign]) for sign in (+1, -1) for i in side[sign]}

    everyone = {i: 1.0 for sign in (+1, -1) for i in side[sign]}
    mu = {sign: centroid(sign, everyone) for sign in (+1, -1)}
    margins = all_margins(mu)
    gamma = {sign: deviation(margins, sign) for sign in (+1, -1)}
    for _ in range(refinements):
        alpha = assignment(margins, gamma)
        mu = {sign: centroid(sign, alpha) for sign in (+1, -1)}
        gamma = {sign: deviation(margins, sign) for sign in (+1, -1)}  # of the margins just used
        margins = all_margins(mu)
    alpha = assignment(margins, gamma)
    raw = [lambda_min + (lambda_max - lambda_min) * alpha.get(i, 0.0) for i in tokens]
    mean = sum(raw) / len(raw)
    return [value / mean for value in raw]


def random_tokens(seed: int, *, tokens: int = 60, hidden: int = 7, neutral: float = 0.2) -> tuple[Tensor, Tensor]:
    """Vectors with a shared part and a part per side, and advantages of uneven size, some 0."""
    generator = torch.Generator().manual_seed(seed)
    advantages = torch.randn(tokens, generator=generator)
    advantages[torch.rand(tokens, generator=generator) < neutral] = 0.0
    vectors = torch.randn(tokens, hidden, generator=generator) + 0.8
    vectors[:, 0] += advantages.sign()
    return vectors, advantages


def estimate_on_ranks(
    vectors: Tensor, advantages: Tensor, owner: Tensor, *, ranks: int, refinements: int
) -> tuple[list[Credit], list[list[int]]]:
    """Run every rank in a thread of its own with an all-reduce that sums over them; also the sizes of its sums."""
    barrier = threading.Barrier(ranks, timeout=60)
    slots: list[Tensor] = [torch.empty(0)] * ranks
    sizes: list[list[int]] = [[] for _ in range(ranks)]

    def run(rank: int) -> Credit:
        def all_reduce(tensor: Tensor) -> Tensor:
            slots[rank] = tensor.clone()
            sizes[rank].append(tensor.numel())
            barrier.wait()
            total = torch.stack(slots).sum(dim=0)
            barrier.wait()
            return total

        mine = owner == rank
        sided = mine & (advantages != 0)
        try:
            return estimate_credit(
                vectors[sided],
                advantages[sided],
                neutral_tokens=int((mine & (advantages == 0)).sum()),
                refinements=refinements,
                lambda_min=0.8,
                lambda_max=1.2,
                all_reduce=all_reduce,
            )
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(run, range(ranks))), sizes


def gather(credits: Sequence[Credit], advantages: Tensor, owner: Tensor) -> Tensor:
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
    credit = estimate_credit(
        HAND_VECTORS[:4], HAND_ADVANTAGES[:4], neutral_tokens=1, refinements=0, lambda_min=0.8, lambda_max=1.2
    )
    assert credit.temperatures == pytest.approx((12.0, 9.0))
    assert not credit.degenerate


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
    credit = estimate_credit(vectors, advantages, neutral_tokens=0, refinements=2, lambda_min=0.8, lambda_max=1.2)
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
    credit = estimate_credit(
        torch.ones(2, 3), torch.ones(2), neutral_tokens=5, refinements=1, lambda_min=0.8, lambda_max=1.2
    )
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
    credits, sizes = estimate_on_ranks(vectors, advantages.abs(), owner, ranks=2, refinements=1)
    assert all(credit.degenerate for credit in credits)
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("refinements", [0, 1, 3])
def test_ranks_make_the_same_small_reductions(refinements: int) -> None:
    vectors, advantages = random_tokens(32, hidden=5)
    owner = torch.arange(len(advantages)) % 3
    _, sizes = estimate_on_ranks(vectors, advantages, owner, ranks=3, refinements=refinements)
    assert sizes[0] == sizes[1] == sizes[2]
    assert max(sizes[0]) == 2 * (5 + 1)


@pytest.mark.parametrize("chunk", [1, 7, 10_000])
def test_chunking_changes_nothing(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, advantages = random_tokens(40)
    expected = discriminative_coefficients(vectors, advantages, refinements=2)
    monkeypatch.setattr(discriminative, "CHUNK", chunk)
    coefficients = discriminative_coefficients(vectors, advantages, refinements=2)
    torch.testing.assert_close(coefficients, expected, rtol=0, atol=1e-7)


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
    ],
)
def test_config_refuses_what_cannot_work(settings: dict[str, float], name: str) -> None:
    with pytest.raises(ValueError, match=f"credit.{name}"):
        DiscriminativeConfig(**settings)


def test_config_allows_equal_bounds() -> None:
    assert DiscriminativeConfig(lambda_min=1.0, lambda_max=1.0).lambda_max == 1.0
