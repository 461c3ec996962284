import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from delta.credit import CreditInputs, FipoConfig, fipo, future_kl
from tests.delta.credit.reference import make_old_tokens


def naive_future_kl(log_ratio: Sequence[float], rows: Sequence[int], half_life: float) -> list[float]:
    """Every pair of tokens."""
    sums = []
    for t, row in enumerate(rows):
        later = [k for k in range(t, len(rows)) if rows[k] == row]
        sums.append(sum(2 ** (-(k - t) / half_life) * log_ratio[k] for k in later))
    return sums


def naive_weights(
    log_ratio: Sequence[float], rows: Sequence[int], mask: Sequence[bool], *, low: float, high: float, dual_clip: float
) -> list[float]:
    """ALGORITHM.md section 5, one token at a time."""
    counted = [x if m and math.exp(x) <= dual_clip else 0.0 for x, m in zip(log_ratio, mask, strict=True)]
    future = naive_future_kl(counted, rows, 32.0)
    return [min(max(math.exp(x), 1 - low), 1 + high) if m else 0.0 for x, m in zip(future, mask, strict=True)]


def random_rows(lengths: Sequence[int], seed: int, scale: float = 0.3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    return torch.randn(len(rows), generator=generator, dtype=torch.float64) * scale, rows


@pytest.mark.parametrize("block", [1, 4, 5, 256])
@pytest.mark.parametrize("half_life", [1.0, 7.0, 32.0])
@pytest.mark.parametrize("lengths", [[1], [4], [1, 5, 4, 11, 8, 3], [12, 13, 12]], ids=str)
def test_future_kl_equals_the_double_loop(
    lengths: list[int], half_life: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fipo, "BLOCK", block)
    log_ratio, rows = random_rows(lengths, seed=block)
    expected = torch.tensor(naive_future_kl(log_ratio.tolist(), rows.tolist(), half_life), dtype=torch.float64)
    torch.testing.assert_close(future_kl(log_ratio, rows, half_life=half_life), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rows_longer_than_a_block_equal_the_double_loop(dtype: torch.dtype) -> None:
    assert fipo.BLOCK < 700
    log_ratio, rows = random_rows([700, 3, 513, 256, 257], seed=1)
    expected = torch.tensor(naive_future_kl(log_ratio.tolist(), rows.tolist(), 32.0))
    sums = future_kl(log_ratio.to(dtype), rows, half_life=32.0)
    assert sums.dtype == dtype
    torch.testing.assert_close(sums.float(), expected.float(), rtol=1e-5, atol=1e-5)


def test_influence_halves_over_the_half_life() -> None:
    log_ratio = torch.zeros(70)
    log_ratio[69] = 8.0
    sums = future_kl(log_ratio, torch.zeros(70, dtype=torch.int64), half_life=32.0)
    assert sums[[69, 37, 5]].tolist() == pytest.approx([8.0, 4.0, 2.0], rel=1e-5)


def test_the_past_does_not_matter() -> None:
    log_ratio, rows = random_rows([20], seed=2)
    changed = log_ratio.clone()
    changed[:10] = 5.0
    torch.testing.assert_close(
        future_kl(changed, rows, half_life=3.0)[10:], future_kl(log_ratio, rows, half_life=3.0)[10:]
    )


@pytest.mark.parametrize("block", [4, 256])
@pytest.mark.parametrize("junk", [1e30, math.nan, math.inf])
def test_rows_do_not_leak_into_each_other(junk: float, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fipo, "BLOCK", block)
    log_ratio, rows = random_rows([6, 9, 5], seed=3)
    expected = future_kl(log_ratio, rows, half_life=32.0)
    broken = log_ratio.clone()
    broken[rows == 1] = junk
    sums = future_kl(broken, rows, half_life=32.0)
    torch.testing.assert_close(sums[rows != 1], expected[rows != 1])


def test_rows_without_tokens_are_passed_over() -> None:
    log_ratio, rows = random_rows([3, 0, 4], seed=4)
    expected = future_kl(log_ratio, torch.tensor([0] * 3 + [1] * 4), half_life=32.0)
    assert torch.equal(future_kl(log_ratio, rows, half_life=32.0), expected)


def test_no_token_has_no_future() -> None:
    assert future_kl(torch.empty(0), torch.empty(0, dtype=torch.int64), half_life=32.0).shape == (0,)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="got shape"):
        future_kl(torch.zeros(3), torch.zeros(2, dtype=torch.int64), half_life=32.0)
    with pytest.raises(ValueError, match="got shape"):
        future_kl(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64), half_life=32.0)


@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.0, 0.2), (0.5, 3.0)])
@pytest.mark.parametrize("dual_clip", [1.5, 10.0])
def test_weights_equal_the_naive_loop(low: float, high: float, dual_clip: float) -> None:
    lengths = [9, 1, 30]
    log_ratio, rows = random_rows(lengths, seed=5, scale=1.0)
    mask = torch.rand(40, generator=torch.Generator().manual_seed(6)) < 0.7
    tokens = make_old_tokens(lengths, loss_mask=mask)
    config = FipoConfig(epsilon_low=low, epsilon_high=high, dual_clip=dual_clip)
    coefficients = config.estimate(CreditInputs(tokens=tokens)).coefficients
    expected = naive_weights(log_ratio.tolist(), rows.tolist(), mask.tolist(), low=low, high=high, dual_clip=dual_clip)
    refreshed = config.refresh(coefficients, log_ratio.float(), tokens)
    assert refreshed.dtype == torch.float32
    torch.testing.assert_close(refreshed, torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_weights_multiply_the_coefficients() -> None:
    tokens = make_old_tokens([2])
    refreshed = FipoConfig().refresh(torch.tensor([2.0, 3.0]), torch.tensor([-0.05, 0.1]), tokens)
    assert refreshed.tolist() == pytest.approx(
        [2 * math.exp(-0.05 + 0.1 * 2 ** (-1 / 32)), 3 * math.exp(0.1)], rel=1e-5
    )


def test_the_first_step_is_one_on_the_loss_mask() -> None:
    tokens = make_old_tokens([2, 3], advantages=[1.0, 0.0], loss_mask=torch.tensor([True, False, True, True, True]))
    config = FipoConfig()
    credit = config.estimate(CreditInputs(tokens=tokens))
    assert credit.coefficients.tolist() == [1.0, 0.0, 1.0, 1.0, 1.0]
    assert credit.coefficients.dtype == torch.float32
    assert torch.equal(config.refresh(credit.coefficients, torch.zeros(5), tokens), credit.coefficients)


def test_a_masked_token_is_left_out_of_the_sum() -> None:
    tokens = make_old_tokens([3], loss_mask=torch.tensor([True, False, True]))
    refreshed = FipoConfig().refresh(torch.ones(3), torch.tensor([0.0, 0.1, 0.0]), tokens)
    assert refreshed.tolist() == [1.0, 1.0, 1.0]


def test_a_token_beyond_the_dual_clip_is_left_out_of_the_sum_and_keeps_its_weight() -> None:
    tokens = make_old_tokens([3])
    beyond = math.log(10) + 1e-4
    refreshed = FipoConfig().refresh(torch.ones(3), torch.tensor([0.0, beyond, 0.05]), tokens)
    gamma = 2 ** (-1 / 32)
    assert refreshed.tolist() == pytest.approx([math.exp(0.05 * gamma**2), math.exp(0.05 * gamma), math.exp(0.05)])
    within = FipoConfig().refresh(torch.ones(3), torch.tensor([0.0, math.log(10) - 1e-4, 0.05]), tokens)
    assert within.tolist() == pytest.approx([1.2, 1.2, math.exp(0.05)])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_ratio_that_is_not_a_number_is_left_out_of_the_sum(bad: float) -> None:
    tokens = make_old_tokens([3])
    refreshed = FipoConfig().refresh(torch.ones(3), torch.tensor([0.0, bad, 0.0]), tokens)
    assert refreshed.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("config", "bounds"),
    [
        (FipoConfig(), (0.8, 1.2)),
        (FipoConfig(epsilon_low=0.0), (1.0, 1.2)),
        (FipoConfig(epsilon_low=0.1, epsilon_high=0.0), (0.9, 1.0)),
    ],
    ids=["paper", "high only", "low only"],
)
@pytest.mark.parametrize("size", [1.0, 300.0])
def test_weights_are_clamped(config: FipoConfig, bounds: tuple[float, float], size: float) -> None:
    tokens = make_old_tokens([1, 1, 2])
    refreshed = config.refresh(torch.ones(4), torch.tensor([-size, min(size, 2.0), 0.0, -size]), tokens)
    assert refreshed.tolist() == pytest.approx([*bounds, bounds[0], bounds[0]])


def test_defaults_are_the_papers() -> None:
    config = FipoConfig()
    assert (config.half_life, config.epsilon_low, config.epsilon_high, config.dual_clip) == (32.0, 0.2, 0.2, 10.0)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"half_life": 0.0}, "half_life"),
        ({"half_life": math.nan}, "half_life"),
        ({"epsilon_low": -0.1}, "epsilon_low"),
        ({"epsilon_low": 1.0}, "epsilon_low"),
        ({"epsilon_high": -0.1}, "epsilon_high"),
        ({"dual_clip": 1.0}, "dual_clip"),
        ({"dual_clip": math.nan}, "dual_clip"),
    ],
)
def test_config_refuses_what_cannot_work(settings: dict[str, float], name: str) -> None:
    with pytest.raises(ValueError, match=f"credit.{name}"):
        FipoConfig(**settings)
