import math

import pytest
import torch
from torch import Tensor

from delta.aggregations import MiniBatch, SequenceMeanConfig
from delta.losses import weighted_sum
from delta.surrogates import GspoConfig, SurrogateTerms, gspo_surrogate
from delta.tokens import OldTokens
from tests.objectives import central_differences, old_tokens

LOW, HIGH = 0.1, 0.2


def surrogate(log_probs: Tensor, tokens: OldTokens) -> SurrogateTerms:
    return GspoConfig(epsilon_low=LOW, epsilon_high=HIGH).terms(log_probs, tokens)


def naive_ratios(log_probs: list[float], tokens: OldTokens) -> list[float]:
    """One ratio per rollout, the geometric mean over its loss-mask tokens."""
    ratios = []
    for row in range(int(tokens.rows.max()) + 1):
        differences = [
            now - old
            for now, old, mine, counts in zip(
                log_probs, tokens.log_probs.tolist(), tokens.rows == row, tokens.loss_mask, strict=True
            )
            if mine and counts
        ]
        ratios.append(math.exp(sum(differences) / len(differences)) if differences else 1.0)
    return ratios


def naive_bound(ratio: float, advantage: float) -> float:
    return min(ratio * advantage, min(max(ratio, 1 - LOW), 1 + HIGH) * advantage)


def is_clipped(ratio: float, advantage: float) -> bool:
    return ratio > 1 + HIGH if advantage > 0 else advantage < 0 and ratio < 1 - LOW


def batch(dtype: torch.dtype = torch.float64) -> tuple[Tensor, OldTokens]:
    """Nine rows of lengths 1 to 5: ratios below, between and above the bounds for A > 0, A < 0 and A = 0."""
    generator = torch.Generator().manual_seed(4)
    lengths = [3, 1, 5, 2, 4, 3, 2, 5, 3]
    rows = torch.repeat_interleave(torch.arange(9), torch.tensor(lengths))
    old = -3 * torch.rand(len(rows), generator=generator, dtype=dtype) - 1
    shift = torch.tensor([-0.5, 0.02, 0.6] * 3, dtype=dtype)[rows]
    noise = torch.randn(len(rows), generator=generator, dtype=dtype)
    mean = torch.stack([noise[rows == row].mean() for row in range(9)])[rows]
    advantages = torch.tensor([1.5] * 3 + [-0.7] * 3 + [0.0] * 3, dtype=dtype)[rows]
    tokens = old_tokens(old, advantages=advantages, row_lengths=lengths, rollout_log_probs=old - 1, dtype=dtype)
    return old + shift + noise - mean, tokens


def masked_batch() -> tuple[Tensor, OldTokens]:
    """The same with tokens off the loss mask, all of them in the last row."""
    log_probs, tokens = batch()
    loss_mask = torch.tensor([place % 4 != 1 for place in range(len(log_probs))]) & (tokens.rows != 8)
    return log_probs, old_tokens(
        tokens.log_probs,
        advantages=tokens.advantages,
        row_lengths=torch.bincount(tokens.rows).tolist(),
        loss_mask=loss_mask,
    )


CASES = pytest.mark.parametrize("case", [batch, masked_batch])


@CASES
def test_values_equal_the_naive_loop(case) -> None:
    log_probs, tokens = case()
    ratios = naive_ratios(log_probs.tolist(), tokens)
    pairs = [(ratios[row], advantage) for row, advantage in zip(tokens.rows, tokens.advantages.tolist(), strict=True)]
    terms = surrogate(log_probs, tokens)
    torch.testing.assert_close(terms.objective, torch.tensor([naive_bound(*pair) for pair in pairs]).double())
    assert terms.clipped.tolist() == [is_clipped(*pair) for pair in pairs]


def test_hand_worked_rollouts() -> None:
    # Row 0: log-ratios 0.3 and -0.1, mean 0.1. Row 1: mean 0.5 is beyond the bound. Row 2: mean -0.5, A < 0.
    differences = torch.tensor([0.3, -0.1, 0.5, -0.9, -0.1])
    tokens = old_tokens([-1.0] * 5, advantages=[2.0, 2.0, 1.0, -1.0, -1.0], row_lengths=[2, 1, 2], dtype=torch.float32)
    terms = surrogate(differences - 1, tokens)
    expected = torch.tensor([2 * math.exp(0.1), 2 * math.exp(0.1), 1.2, -0.9, -0.9])
    torch.testing.assert_close(terms.objective, expected)
    assert terms.clipped.tolist() == [False, False, True, True, True]


@CASES
def test_gradients_equal_finite_differences_with_the_sequence_ratio_held_fixed(case) -> None:
    log_probs, tokens = case()
    leaf = log_probs.clone().requires_grad_()
    surrogate(leaf, tokens).objective.sum().backward()
    fixed = log_probs.tolist()
    ratios = naive_ratios(fixed, tokens)

    def total(at: list[float]) -> float:
        return sum(
            naive_bound(ratios[row] * math.exp(log_prob - anchor), advantage)
            for row, log_prob, anchor, advantage in zip(
                tokens.rows.tolist(), at, fixed, tokens.advantages.tolist(), strict=True
            )
        )

    torch.testing.assert_close(leaf.grad, central_differences(total, fixed), rtol=1e-6, atol=1e-7)


@CASES
def test_sequence_mean_has_value_and_gradient_of_the_sequence_form(case) -> None:
    log_probs, tokens = case()
    leaf = log_probs.clone().requires_grad_()
    weights = SequenceMeanConfig().weights(tokens.row_tokens, MiniBatch(tokens.row_tokens.sum(), tokens.loss_rows))
    loss = weighted_sum(surrogate(leaf, tokens).objective, tokens.loss_mask.double(), weights)
    loss.backward()

    plain = log_probs.clone().requires_grad_()
    terms = []
    for row in range(int(tokens.rows.max()) + 1):
        mine = (tokens.rows == row) & tokens.loss_mask
        if mine.any():
            ratio = torch.exp((plain[mine] - tokens.log_probs[mine]).mean())
            advantage = tokens.advantages[tokens.rows == row][0]
            terms.append(torch.minimum(ratio * advantage, ratio.clamp(1 - LOW, 1 + HIGH) * advantage))
    expected = torch.stack(terms).mean()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-9)  # aggregation weights are float32
    torch.testing.assert_close(leaf.grad, plain.grad, rtol=1e-6, atol=1e-9)


def test_gradient_before_the_first_step_is_the_policy_gradient() -> None:
    _, tokens = batch(torch.float32)
    leaf = tokens.log_probs.clone().requires_grad_()
    terms = surrogate(leaf, tokens)
    terms.objective.sum().backward()
    assert torch.equal(terms.objective.detach(), tokens.advantages)
    assert torch.equal(leaf.grad, tokens.advantages)
    assert not terms.clipped.any()


def test_rollouts_are_clipped_as_a_whole() -> None:
    log_probs, tokens = batch()
    leaf = log_probs.requires_grad_()
    terms = surrogate(leaf, tokens)
    terms.objective.sum().backward()
    for row in range(9):
        mine = tokens.rows == row
        assert len(terms.clipped[mine].unique()) == 1
        assert torch.equal(leaf.grad[mine] == 0, terms.clipped[mine] | (tokens.advantages[mine] == 0))


@pytest.mark.parametrize("junk", [50.0, math.nan, math.inf])
def test_tokens_off_the_loss_mask_do_not_move_the_ratio(junk: float) -> None:
    tokens = old_tokens([-1.0] * 3, advantages=[1.0] * 3, loss_mask=[True, False, True])
    kept = surrogate(torch.tensor([-0.9, junk, -1.0], dtype=torch.float64), tokens).objective[[0, 2]]
    torch.testing.assert_close(kept, torch.full((2,), math.exp(0.05), dtype=torch.float64))


def test_rollouts_do_not_influence_each_other() -> None:
    log_probs, tokens = batch()
    changed = log_probs.clone()
    changed[tokens.rows == 4] += 3
    same = tokens.rows != 4
    assert torch.equal(surrogate(changed, tokens).objective[same], surrogate(log_probs, tokens).objective[same])


@pytest.mark.parametrize("advantage", [1.0, -1.0, 0.0])
@pytest.mark.parametrize("log_ratio", [200.0, -200.0])
def test_extreme_ratio_leaves_objective_and_gradient_finite(log_ratio: float, advantage: float) -> None:
    leaf = torch.full((2,), min(log_ratio, 0.0), requires_grad=True)
    tokens = old_tokens([min(-log_ratio, 0.0)] * 2, advantages=[advantage] * 2, dtype=torch.float32)
    terms = surrogate(leaf, tokens)
    terms.objective.sum().backward()
    assert torch.isfinite(terms.objective).all()
    assert torch.isfinite(leaf.grad).all()


def test_no_tokens_give_no_terms() -> None:
    terms = surrogate(torch.empty(0), old_tokens([]))
    assert terms.objective.shape == terms.clipped.shape == (0,)


@pytest.mark.parametrize("wrong", range(5))
def test_wrong_shapes_are_refused(wrong: int) -> None:
    inputs = [torch.zeros(3), torch.zeros(3), torch.zeros(3), torch.ones(3).bool(), torch.zeros(3, dtype=torch.int64)]
    inputs[wrong] = inputs[wrong][:2] if wrong else inputs[0].unsqueeze(1)
    with pytest.raises(ValueError, match="got shape"):
        gspo_surrogate(*inputs, epsilon_low=LOW, epsilon_high=HIGH)


def test_defaults_are_the_papers() -> None:
    assert (GspoConfig().epsilon_low, GspoConfig().epsilon_high) == (3e-4, 4e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {"epsilon_low": 0.0},
        {"epsilon_low": 1.0},
        {"epsilon_low": math.nan},
        {"epsilon_high": 0.0},
        {"epsilon_high": -0.1},
        {"epsilon_high": math.nan},
    ],
)
def test_config_refuses_what_cannot_work(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"surrogate\.{next(iter(settings))}"):
        GspoConfig(**settings)
