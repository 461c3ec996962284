import math

import pytest
import torch
from torch import Tensor

from delta.surrogates import CispoConfig, SurrogateTerms, cispo_surrogate
from tests.objectives import central_differences, old_tokens

HIGH = 1.5
GRID = [(ratio, advantage) for ratio in (0.01, 0.5, 1.0, 2.4, 2.6, 40.0) for advantage in (1.5, 0.2, 0.0, -0.2, -1.5)]


def surrogate(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor) -> SurrogateTerms:
    return cispo_surrogate(log_probs, old_log_probs, advantages, epsilon_high=HIGH)


def naive_weight(log_prob: float, old_log_prob: float) -> float:
    return min(math.exp(log_prob - old_log_prob), 1 + HIGH)


def grid_tensors() -> tuple[Tensor, Tensor, Tensor]:
    old = torch.linspace(-6, -4, len(GRID), dtype=torch.float64)
    ratios = torch.tensor([ratio for ratio, _ in GRID], dtype=torch.float64)
    return old + ratios.log(), old, torch.tensor([advantage for _, advantage in GRID], dtype=torch.float64)


def test_values_equal_the_naive_loop() -> None:
    log_probs, old, advantages = grid_tensors()
    expected = [
        naive_weight(log_prob, old_log_prob) * advantage * log_prob
        for log_prob, old_log_prob, advantage in zip(log_probs.tolist(), old.tolist(), advantages.tolist(), strict=True)
    ]
    torch.testing.assert_close(surrogate(log_probs, old, advantages).objective, torch.tensor(expected).double())


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective"),
    [
        (1.0, 2.0, -6.0),  # 1 * 2 * -3
        (2.0, 2.0, -12.0),
        (2.0, -1.0, 6.0),
        (9.0, 2.0, -15.0),  # 2.5 * 2 * -3
        (9.0, -2.0, 15.0),  # the cut does not ask for the sign
        (0.1, -2.0, 0.6),  # nor is there one from below
    ],
)
def test_hand_worked_terms(ratio: float, advantage: float, objective: float) -> None:
    terms = surrogate(torch.tensor([-3.0]), torch.tensor([-3.0 - math.log(ratio)]), torch.tensor([advantage]))
    torch.testing.assert_close(terms.objective, torch.tensor([objective]))
    assert terms.clipped.tolist() == [ratio > 1 + HIGH]


def test_gradients_equal_finite_differences_with_the_weight_held_fixed() -> None:
    log_probs, old, advantages = grid_tensors()
    leaf = log_probs.clone().requires_grad_()
    surrogate(leaf, old, advantages).objective.sum().backward()
    weights = [naive_weight(*pair) for pair in zip(log_probs.tolist(), old.tolist(), strict=True)]

    def total(at: list[float]) -> float:
        return sum(w * a * log_prob for w, a, log_prob in zip(weights, advantages.tolist(), at, strict=True))

    torch.testing.assert_close(leaf.grad, central_differences(total, log_probs.tolist()), rtol=1e-6, atol=1e-6)


def test_token_beyond_the_bound_keeps_the_gradient_of_the_bound() -> None:
    leaf = torch.tensor([0.0, 0.0], requires_grad=True)
    terms = surrogate(leaf, torch.tensor([-3.0, -3.0]), torch.tensor([2.0, -2.0]))
    terms.objective.sum().backward()
    torch.testing.assert_close(leaf.grad, torch.tensor([2.0, -2.0]) * (1 + HIGH))
    assert terms.clipped.all()


def test_gradient_before_the_first_step_is_the_policy_gradient() -> None:
    leaf = torch.tensor([-1.0, -2.0, -0.5], requires_grad=True)
    advantages = torch.tensor([1.5, -0.5, 0.0])
    terms = surrogate(leaf, leaf.detach().clone(), advantages)
    terms.objective.sum().backward()
    assert torch.equal(leaf.grad, advantages)
    assert not terms.clipped.any()


def test_token_without_advantage_is_never_clipped() -> None:
    assert not surrogate(torch.tensor([-0.1]), torch.tensor([-9.0]), torch.zeros(1)).clipped.any()


@pytest.mark.parametrize("advantage", [1.0, -1.0, 0.0])
@pytest.mark.parametrize("log_ratio", [200.0, -200.0])
def test_extreme_ratio_leaves_objective_and_gradient_finite(log_ratio: float, advantage: float) -> None:
    leaf = torch.tensor([min(log_ratio, 0.0)], requires_grad=True)
    terms = surrogate(leaf, torch.tensor([min(-log_ratio, 0.0)]), torch.tensor([advantage]))
    terms.objective.sum().backward()
    assert torch.isfinite(terms.objective).all()
    torch.testing.assert_close(leaf.grad, torch.tensor([advantage * (1 + HIGH) if log_ratio > 0 else 0.0]))


def test_config_hands_on_its_settings_and_the_old_policy() -> None:
    log_probs, old, advantages = grid_tensors()
    tokens = old_tokens(old, advantages=advantages, rollout_log_probs=old - 1)
    terms = CispoConfig(epsilon_high=HIGH).terms(log_probs, tokens)
    expected = surrogate(log_probs, old, advantages)
    assert torch.equal(terms.objective, expected.objective)
    assert torch.equal(terms.clipped, expected.clipped)


def test_no_tokens_give_no_terms() -> None:
    terms = surrogate(torch.empty(0), torch.empty(0), torch.empty(0))
    assert terms.objective.shape == terms.clipped.shape == (0,)


@pytest.mark.parametrize("shapes", [((3,), (2,), (3,)), ((3,), (3,), (1,)), ((3, 1), (3,), (3,))])
def test_wrong_shapes_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match="got shape"):
        surrogate(*(torch.zeros(shape) for shape in shapes))


def test_default_is_the_documented_one() -> None:
    assert CispoConfig().epsilon_high == 4.0


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_config_refuses_what_cannot_work(value: float) -> None:
    with pytest.raises(ValueError, match=rf"surrogate\.epsilon_high={value}"):
        CispoConfig(epsilon_high=value)
