import math

import pytest
import torch
from torch import Tensor

from delta.surrogates import SapoConfig, SurrogateTerms, sapo_surrogate
from tests.objectives import central_differences, old_tokens

POSITIVE, NEGATIVE = 0.7, 1.6
GRID = [
    (ratio, advantage) for ratio in (0.05, 0.5, 0.9, 1.0, 1.1, 2.0, 6.0) for advantage in (1.5, 0.2, 0.0, -0.2, -1.5)
]


def surrogate(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor) -> SurrogateTerms:
    return sapo_surrogate(log_probs, old_log_probs, advantages, tau_positive=POSITIVE, tau_negative=NEGATIVE)


def naive_term(log_prob: float, old_log_prob: float, advantage: float) -> float:
    tau = POSITIVE if advantage > 0 else NEGATIVE
    gate = 1 / (1 + math.exp(-tau * (math.exp(log_prob - old_log_prob) - 1)))
    return 4 / tau * gate * advantage


def grid_tensors() -> tuple[Tensor, Tensor, Tensor]:
    old = torch.linspace(-3, -0.1, len(GRID), dtype=torch.float64)
    ratios = torch.tensor([ratio for ratio, _ in GRID], dtype=torch.float64)
    return old + ratios.log(), old, torch.tensor([advantage for _, advantage in GRID], dtype=torch.float64)


def test_values_equal_the_naive_loop() -> None:
    log_probs, old, advantages = grid_tensors()
    expected = [naive_term(*row) for row in zip(log_probs.tolist(), old.tolist(), advantages.tolist(), strict=True)]
    objective = surrogate(log_probs, old, advantages).objective
    torch.testing.assert_close(objective, torch.tensor(expected).double(), rtol=1e-6, atol=1e-9)


def test_settings_keep_the_precision_of_the_log_probabilities() -> None:
    log_probs = torch.tensor([0.1], dtype=torch.float64)
    objective = sapo_surrogate(log_probs, log_probs - 1, -torch.ones(1).double(), tau_positive=1.0, tau_negative=1.05)
    expected = -4 / 1.05 / (1 + math.exp(-1.05 * (math.e - 1)))
    assert objective.objective.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective"),
    [
        (1.0, 3.0, 6.0),  # (4 / 1) (1 / 2) 3
        (1.0, -3.0, -3.0),  # (4 / 2) (1 / 2) -3
        (1 + math.log(3), 1.0, 3.0),  # the gate is 3 / 4
        (1 - math.log(3) / 2, -1.0, -0.5),  # 2 log 3 / 2: the gate is 1 / 4
    ],
)
def test_hand_worked_terms(ratio: float, advantage: float, objective: float) -> None:
    terms = sapo_surrogate(
        torch.tensor([math.log(ratio) - 1]),
        torch.tensor([-1.0]),
        torch.tensor([advantage]),
        tau_positive=1.0,
        tau_negative=2.0,
    )
    torch.testing.assert_close(terms.objective, torch.tensor([objective]))


def test_gradients_equal_finite_differences() -> None:
    log_probs, old, advantages = grid_tensors()
    leaf = log_probs.clone().requires_grad_()
    surrogate(leaf, old, advantages).objective.sum().backward()

    def total(at: list[float]) -> float:
        return sum(naive_term(*row) for row in zip(at, old.tolist(), advantages.tolist(), strict=True))

    torch.testing.assert_close(leaf.grad, central_differences(total, log_probs.tolist()), rtol=1e-5, atol=1e-8)


def test_gradient_before_the_first_step_is_the_policy_gradient_whatever_the_temperatures() -> None:
    leaf = torch.tensor([-1.0, -2.0, -0.5], requires_grad=True)
    advantages = torch.tensor([1.5, -0.5, 0.0])
    terms = surrogate(leaf, leaf.detach().clone(), advantages)
    terms.objective.sum().backward()
    torch.testing.assert_close(leaf.grad, advantages)
    torch.testing.assert_close(terms.objective.detach(), torch.tensor([3 / POSITIVE, -1 / NEGATIVE, 0.0]))


def test_gradient_fades_against_that_of_the_ratio_on_both_sides_and_never_ends() -> None:
    ratios = torch.tensor([0.05, 0.5, 1.0, 2.0, 4.0])
    leaf = ratios.log().requires_grad_()
    terms = surrogate(leaf, torch.zeros(5), torch.ones(5))
    terms.objective.sum().backward()
    gate = (leaf.grad / ratios).tolist()
    assert gate[2] == pytest.approx(1.0)
    assert 0 < gate[0] < gate[1] < gate[2] > gate[3] > gate[4] > 0
    assert not terms.clipped.any()


def test_sharper_gate_fades_sooner() -> None:
    leaf = torch.tensor([3.0, 3.0]).log().requires_grad_()
    surrogate(leaf, torch.zeros(2), torch.tensor([1.0, -1.0])).objective.sum().backward()
    assert leaf.grad[0].abs() > leaf.grad[1].abs()


@pytest.mark.parametrize("advantage", [1.0, -1.0, 0.0])
@pytest.mark.parametrize("log_ratio", [200.0, -200.0])
def test_extreme_ratio_leaves_objective_and_gradient_finite(log_ratio: float, advantage: float) -> None:
    leaf = torch.tensor([min(log_ratio, 0.0)], requires_grad=True)
    terms = surrogate(leaf, torch.tensor([min(-log_ratio, 0.0)]), torch.tensor([advantage]))
    terms.objective.sum().backward()
    assert torch.isfinite(terms.objective).all()
    assert torch.equal(leaf.grad, torch.zeros(1))


def test_config_hands_on_its_settings_and_the_old_policy() -> None:
    log_probs, old, advantages = grid_tensors()
    tokens = old_tokens(old, advantages=advantages, rollout_log_probs=old - 1)
    terms = SapoConfig(tau_positive=POSITIVE, tau_negative=NEGATIVE).terms(log_probs, tokens)
    assert torch.equal(terms.objective, surrogate(log_probs, old, advantages).objective)


def test_no_tokens_give_no_terms() -> None:
    terms = surrogate(torch.empty(0), torch.empty(0), torch.empty(0))
    assert terms.objective.shape == terms.clipped.shape == (0,)


@pytest.mark.parametrize("shapes", [((3,), (2,), (3,)), ((3,), (3,), (1,)), ((3, 1), (3,), (3,))])
def test_wrong_shapes_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match="got shape"):
        surrogate(*(torch.zeros(shape) for shape in shapes))


def test_defaults_are_the_papers() -> None:
    assert (SapoConfig().tau_positive, SapoConfig().tau_negative) == (1.0, 1.05)


@pytest.mark.parametrize("name", ["tau_positive", "tau_negative"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_config_refuses_what_cannot_work(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"surrogate\.{name}={value}"):
        SapoConfig(**{name: value})
