import math

import pytest
import torch
from torch import Tensor

from delta.surrogates import ClippedConfig, SurrogateTerms, clipped_surrogate
from tests.objectives import central_differences, old_tokens

LOW, HIGH, DUAL = 0.2, 0.28, 3.0

RATIOS = (0.1, 0.5, 0.79, 0.81, 0.95, 1.0, 1.05, 1.27, 1.29, 2.0, 2.99, 3.01, 8.0)
ADVANTAGES = (2.0, 0.3, 0.0, -0.3, -2.0)
GRID = [(ratio, advantage) for ratio in RATIOS for advantage in ADVANTAGES]


def surrogate(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor) -> SurrogateTerms:
    return clipped_surrogate(log_probs, old_log_probs, advantages, epsilon_low=LOW, epsilon_high=HIGH, dual_clip=DUAL)


def naive_term(log_prob: float, old_log_prob: float, advantage: float) -> float:
    ratio = math.exp(log_prob - old_log_prob)
    bounded = min(max(ratio, 1 - LOW), 1 + HIGH)
    term = min(ratio * advantage, bounded * advantage)
    return max(term, DUAL * advantage) if advantage < 0 else term


def is_clipped(ratio: float, advantage: float) -> bool:
    """Read off the picture in the PPO paper: where the objective is flat in the ratio."""
    if advantage > 0:
        return ratio > 1 + HIGH
    return advantage < 0 and (ratio < 1 - LOW or ratio > DUAL)


def grid_tensors() -> tuple[Tensor, Tensor, Tensor]:
    old = torch.linspace(-3, -0.1, len(GRID), dtype=torch.float64)
    ratios = torch.tensor([ratio for ratio, _ in GRID], dtype=torch.float64)
    return old + ratios.log(), old, torch.tensor([advantage for _, advantage in GRID], dtype=torch.float64)


def test_values_equal_the_naive_loop() -> None:
    log_probs, old, advantages = grid_tensors()
    expected = [naive_term(*row) for row in zip(log_probs.tolist(), old.tolist(), advantages.tolist(), strict=True)]
    torch.testing.assert_close(surrogate(log_probs, old, advantages).objective, torch.tensor(expected).double())


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective"),
    [
        (1.0, 2.0, 2.0),
        (1.1, 2.0, 2.2),
        (2.0, 2.0, 2.56),  # 1.28 * 2
        (0.5, 2.0, 1.0),  # a good token that became unlikely is not held back
        (1.1, -2.0, -2.2),
        (0.5, -2.0, -1.6),  # 0.8 * -2
        (2.0, -2.0, -4.0),  # a bad token that became likely is punished in full
        (5.0, -2.0, -6.0),  # up to the dual clip, 3 * -2
        (5.0, 0.0, 0.0),
    ],
)
def test_hand_worked_terms(ratio: float, advantage: float, objective: float) -> None:
    terms = surrogate(torch.tensor([math.log(ratio) - 1]), torch.tensor([-1.0]), torch.tensor([advantage]))
    torch.testing.assert_close(terms.objective, torch.tensor([objective]))


def test_gradients_equal_finite_differences() -> None:
    log_probs, old, advantages = grid_tensors()
    leaf = log_probs.clone().requires_grad_()
    surrogate(leaf, old, advantages).objective.sum().backward()
    for place, row in enumerate(zip(log_probs.tolist(), old.tolist(), advantages.tolist(), strict=True)):
        log_prob, *rest = row
        expected = central_differences(lambda at, rest=rest: naive_term(at[0], *rest), [log_prob])
        torch.testing.assert_close(leaf.grad[place : place + 1], expected, rtol=1e-6, atol=1e-7)


def test_gradient_is_exactly_zero_where_clipped_and_only_there() -> None:
    log_probs, old, advantages = grid_tensors()
    leaf = log_probs.requires_grad_()
    terms = surrogate(leaf, old, advantages)
    terms.objective.sum().backward()
    expected = torch.tensor([is_clipped(*point) for point in GRID])
    assert torch.equal(terms.clipped, expected)
    assert torch.equal(leaf.grad == 0, expected | (advantages == 0))


def test_gradient_before_the_first_step_is_the_policy_gradient() -> None:
    leaf = torch.tensor([-1.0, -2.0, -0.5]).requires_grad_()
    advantages = torch.tensor([1.5, -0.5, 0.0])
    terms = surrogate(leaf, leaf.detach().clone(), advantages)
    terms.objective.sum().backward()
    assert torch.equal(terms.objective.detach(), advantages)
    assert torch.equal(leaf.grad, advantages)
    assert not terms.clipped.any()


def test_dual_clip_bounds_negative_advantages_only() -> None:
    log_ratio = torch.tensor([5.0, 5.0])
    terms = surrogate(log_ratio - 6, torch.full((2,), -6.0), torch.tensor([-2.0, 2.0]))
    torch.testing.assert_close(terms.objective, torch.tensor([DUAL * -2.0, (1 + HIGH) * 2.0]))


def test_bounds_are_decoupled() -> None:
    ratios = torch.tensor([0.75, 1.25]).log()
    terms = clipped_surrogate(
        ratios, torch.zeros(2), torch.tensor([-1.0, 1.0]), epsilon_low=0.3, epsilon_high=0.1, dual_clip=10.0
    )
    torch.testing.assert_close(terms.objective, torch.tensor([-0.75, 1.1]))
    assert terms.clipped.tolist() == [False, True]


def test_token_without_advantage_is_never_clipped() -> None:
    terms = surrogate(torch.tensor([-0.1, -9.0]), torch.tensor([-9.0, -0.1]), torch.zeros(2))
    assert not terms.clipped.any()
    assert torch.equal(terms.objective.abs(), torch.zeros(2))


@pytest.mark.parametrize("dual_clip", [DUAL, math.inf])
@pytest.mark.parametrize("advantage", [1.0, -1.0, 0.0])
@pytest.mark.parametrize("log_ratio", [200.0, -200.0])
def test_extreme_ratio_leaves_objective_and_gradient_finite(
    log_ratio: float, advantage: float, dual_clip: float
) -> None:
    # exp(200) overflows float32; the bounds exist so that such a token cannot hurt the others.
    leaf = torch.tensor([min(log_ratio, 0.0)]).requires_grad_()
    terms = clipped_surrogate(
        leaf,
        torch.tensor([min(-log_ratio, 0.0)]),
        torch.tensor([advantage]),
        epsilon_low=LOW,
        epsilon_high=HIGH,
        dual_clip=dual_clip,
    )
    terms.objective.sum().backward()
    assert torch.isfinite(terms.objective).all()
    assert torch.isfinite(leaf.grad).all()


@pytest.mark.parametrize(("dual_clip", "ratio"), [(math.inf, 50.0), (math.inf, 1e6), (1e10, 9e9)])
def test_punishment_grows_with_the_ratio_up_to_the_dual_clip(dual_clip: float, ratio: float) -> None:
    leaf = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    zero, advantages = torch.zeros(1, dtype=torch.float64), torch.tensor([-2.0], dtype=torch.float64)
    terms = clipped_surrogate(leaf, zero, advantages, epsilon_low=LOW, epsilon_high=HIGH, dual_clip=dual_clip)
    terms.objective.sum().backward()
    assert terms.objective.item() == pytest.approx(-2 * ratio)
    assert leaf.grad.item() == pytest.approx(-2 * ratio)
    assert not terms.clipped.any()


def test_config_hands_on_its_settings_and_the_old_policy() -> None:
    old = torch.tensor([-1.0, -2.0, -0.5, -3.0], dtype=torch.float64)
    now = old + torch.tensor([0.7, 0.25, 3.0, -1.0], dtype=torch.float64)
    tokens = old_tokens(old, advantages=[1.0, 2.0, -1.0, -0.5], rollout_log_probs=old - 1)
    terms = ClippedConfig(epsilon_low=0.4, epsilon_high=0.5, dual_clip=7.0).terms(now, tokens)
    expected = torch.tensor([1.5, 2 * math.exp(0.25), -7.0, -0.5 * 0.6], dtype=torch.float64)
    torch.testing.assert_close(terms.objective, expected)
    assert terms.clipped.tolist() == [True, False, True, True]


def test_no_tokens_give_no_terms() -> None:
    terms = surrogate(torch.empty(0), torch.empty(0), torch.empty(0))
    assert terms.objective.shape == terms.clipped.shape == (0,)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="got shape"):
        surrogate(torch.zeros(3), torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="got shape"):
        surrogate(torch.zeros(3), torch.zeros(3), torch.zeros(1))
    with pytest.raises(ValueError, match="got shape"):
        surrogate(torch.zeros(3, 1), torch.zeros(3), torch.zeros(3))


def test_defaults_are_the_papers() -> None:
    config = ClippedConfig()
    assert (config.epsilon_low, config.epsilon_high, config.dual_clip) == (0.2, 0.28, 10.0)


@pytest.mark.parametrize(
    "settings",
    [
        {"epsilon_low": 0.0},
        {"epsilon_low": 1.0},
        {"epsilon_low": math.nan},
        {"epsilon_high": 0.0},
        {"epsilon_high": -0.1},
        {"epsilon_high": math.nan},
        {"dual_clip": 1.0},
        {"dual_clip": -3.0},
        {"dual_clip": math.nan},
    ],
)
def test_config_refuses_what_cannot_work(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"surrogate\.{next(iter(settings))}"):
        ClippedConfig(**settings)
