import pytest
import torch

from delta.aggregations import MiniBatch, TokenMeanConfig
from tests.delta.aggregations.batch import assert_follows, rows_of_terms


def test_loss_is_the_mean_over_the_tokens() -> None:
    tokens = [term for row in rows_of_terms() for term in row]
    assert_follows(TokenMeanConfig(), sum(tokens) / len(tokens))


def test_hand_worked_weights() -> None:
    # Two rollouts of 1 and 3 tokens: a quarter each.
    weights = TokenMeanConfig().weights(torch.tensor([1, 3, 3, 3]), MiniBatch(tokens=4, rows=2))
    assert weights.tolist() == [0.25] * 4
    assert weights.dtype == torch.float32


def test_long_rollouts_count_more() -> None:
    weights = TokenMeanConfig().weights(torch.tensor([1, 3, 3, 3]), MiniBatch(tokens=4, rows=2))
    assert weights[1:].sum() == 3 * weights[0]


def test_denominator_is_that_of_the_global_mini_batch() -> None:
    weights = TokenMeanConfig().weights(torch.tensor([2, 2]), MiniBatch(tokens=80, rows=7))
    assert weights.tolist() == pytest.approx([1 / 80] * 2)


@pytest.mark.parametrize("tokens", [0, 5])
def test_empty_micro_batch_has_no_weights(tokens: int) -> None:
    assert TokenMeanConfig().weights(torch.empty(0, dtype=torch.int64), MiniBatch(tokens, rows=0)).shape == (0,)


def test_mini_batch_without_loss_has_finite_weights() -> None:
    assert torch.isfinite(TokenMeanConfig().weights(torch.tensor([0, 0]), MiniBatch(tokens=0, rows=0))).all()
