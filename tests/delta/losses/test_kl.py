import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from delta.losses import KlEstimator, kl_estimate, kl_penalty
from tests.objectives import central_differences

NAIVE: dict[KlEstimator, Callable[[float, float], float]] = {
    KlEstimator.k1: lambda p, q: math.log(p / q),
    KlEstimator.k2: lambda p, q: math.log(p / q) ** 2 / 2,
    KlEstimator.k3: lambda p, q: q / p - 1 - math.log(q / p),
}

EVERY = pytest.mark.parametrize("estimator", list(KlEstimator))


def pairs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(-3 * torch.rand(2, 40, generator=generator, dtype=torch.float64) - 0.01)


def categorical(seed: int = 0, size: int = 5) -> tuple[Tensor, Tensor]:
    """Logits of a small policy, with gradient, and log-probabilities of a reference."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, generator=generator, dtype=torch.float64).requires_grad_()
    return logits, torch.log_softmax(torch.randn(size, generator=generator, dtype=torch.float64), dim=0)


def divergence(log_probs: Tensor, ref_log_probs: Tensor) -> Tensor:
    return (log_probs.exp() * (log_probs - ref_log_probs)).sum()


def expected_gradient(estimator: KlEstimator, seed: int) -> Tensor:
    """Enumerated mean over y ~ policy of the gradient of y's penalty."""
    logits, ref_log_probs = categorical(seed)
    log_probs = torch.log_softmax(logits, dim=0)
    penalties = kl_penalty(log_probs, ref_log_probs, estimator=estimator)
    (log_probs.detach().exp() * penalties).sum().backward()
    return logits.grad


@EVERY
def test_estimates_equal_the_naive_loop(estimator: KlEstimator) -> None:
    log_probs, ref_log_probs = pairs()
    expected = [
        NAIVE[estimator](math.exp(p), math.exp(q))
        for p, q in zip(log_probs.tolist(), ref_log_probs.tolist(), strict=True)
    ]
    estimate = kl_estimate(log_probs, ref_log_probs, estimator=estimator)
    torch.testing.assert_close(estimate, torch.tensor(expected).double(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [(KlEstimator.k1, math.log(2)), (KlEstimator.k2, math.log(2) ** 2 / 2), (KlEstimator.k3, math.log(2) - 0.5)],
)
def test_hand_worked_estimate_of_a_token_twice_as_likely_as_before(estimator: KlEstimator, expected: float) -> None:
    estimate = kl_estimate(torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)]), estimator=estimator)
    torch.testing.assert_close(estimate, torch.tensor([expected]))


@EVERY
def test_equal_policies_have_no_divergence(estimator: KlEstimator) -> None:
    log_probs = torch.tensor([-0.5, -3.0, 0.0])
    assert torch.equal(kl_estimate(log_probs, log_probs, estimator=estimator), torch.zeros(3))


@pytest.mark.parametrize("estimator", [KlEstimator.k1, KlEstimator.k3])
@pytest.mark.parametrize("seed", range(3))
def test_mean_estimate_is_the_divergence(estimator: KlEstimator, seed: int) -> None:
    logits, ref_log_probs = categorical(seed)
    log_probs = torch.log_softmax(logits.detach(), dim=0)
    mean = (log_probs.exp() * kl_estimate(log_probs, ref_log_probs, estimator=estimator)).sum()
    torch.testing.assert_close(mean, divergence(log_probs, ref_log_probs))


@EVERY
def test_value_of_the_penalty_is_the_estimate(estimator: KlEstimator) -> None:
    log_probs, ref_log_probs = pairs()
    penalty = kl_penalty(log_probs, ref_log_probs, estimator=estimator)
    torch.testing.assert_close(penalty, kl_estimate(log_probs, ref_log_probs, estimator=estimator))


@pytest.mark.parametrize("estimator", [KlEstimator.k1, KlEstimator.k2])
@pytest.mark.parametrize("seed", range(3))
def test_mean_gradient_of_the_penalty_is_that_of_the_divergence(estimator: KlEstimator, seed: int) -> None:
    logits, ref_log_probs = categorical(seed)
    divergence(torch.log_softmax(logits, dim=0), ref_log_probs).backward()
    torch.testing.assert_close(expected_gradient(estimator, seed), logits.grad)


@pytest.mark.parametrize("seed", range(3))
def test_mean_gradient_of_k3_is_that_of_the_reverse_divergence(seed: int) -> None:
    # E_p[(1 - q / p) grad log p] = - sum q grad log p
    logits, ref_log_probs = categorical(seed)
    divergence(ref_log_probs, torch.log_softmax(logits, dim=0)).backward()
    torch.testing.assert_close(expected_gradient(KlEstimator.k3, seed), logits.grad)


@pytest.mark.parametrize("estimator", [KlEstimator.k2, KlEstimator.k3])
def test_gradients_equal_finite_differences(estimator: KlEstimator) -> None:
    log_probs, ref_log_probs = pairs()
    leaf = log_probs.clone().requires_grad_()
    kl_penalty(leaf, ref_log_probs, estimator=estimator).sum().backward()

    def total(at: list[float]) -> float:
        return sum(NAIVE[estimator](math.exp(p), math.exp(q)) for p, q in zip(at, ref_log_probs.tolist(), strict=True))

    torch.testing.assert_close(leaf.grad, central_differences(total, log_probs.tolist()), rtol=1e-5, atol=1e-7)


def test_gradient_of_k1_equals_finite_differences_with_the_denominator_of_the_ratio_held_fixed() -> None:
    log_probs, ref_log_probs = pairs()
    leaf = log_probs.clone().requires_grad_()
    kl_penalty(leaf, ref_log_probs, estimator=KlEstimator.k1).sum().backward()
    fixed = log_probs.tolist()

    def total(at: list[float]) -> float:
        return sum(math.exp(p - f) * (p - q) for p, f, q in zip(at, fixed, ref_log_probs.tolist(), strict=True))

    torch.testing.assert_close(leaf.grad, central_differences(total, fixed), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("difference", [1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("sign", [1, -1])
def test_k3_keeps_tiny_differences(difference: float, sign: int) -> None:
    estimate = kl_estimate(torch.tensor([sign * difference]), torch.zeros(1), estimator=KlEstimator.k3)
    assert estimate.item() == pytest.approx(difference**2 / 2, rel=1e-2)


@pytest.mark.parametrize("difference", [-200.0, -25.0, -3.0, 3.0, 25.0, 200.0])
@EVERY
def test_extreme_difference_stays_finite_and_never_pushes_away_from_the_reference(
    estimator: KlEstimator, difference: float
) -> None:
    leaf = torch.tensor([min(difference, 0.0)], requires_grad=True)
    penalty = kl_penalty(leaf, torch.tensor([min(-difference, 0.0)]), estimator=estimator)
    penalty.sum().backward()
    assert torch.isfinite(penalty).all()
    assert torch.isfinite(leaf.grad).all()
    assert leaf.grad.item() * difference >= 0
    assert penalty.item() > 0 or estimator is KlEstimator.k1


@EVERY
def test_no_tokens_give_no_estimates(estimator: KlEstimator) -> None:
    assert kl_penalty(torch.empty(0), torch.empty(0), estimator=estimator).shape == (0,)


@pytest.mark.parametrize("function", [kl_estimate, kl_penalty])
def test_wrong_shapes_are_refused(function: Callable[..., Tensor]) -> None:
    for shapes in (((3,), (2,)), ((3,), (1,)), ((3, 1), (3,))):
        with pytest.raises(ValueError, match="got shape"):
            function(*(torch.zeros(shape) for shape in shapes), estimator=KlEstimator.k1)
