import pytest
import torch

from delta.aggregations import MiniBatch, SequenceSumConfig
from tests.delta.aggregations.batch import assert_follows, rows_of_terms


def test_loss_is_the_mean_of_the_sums_of_rollouts_with_loss() -> None:
    rows = [row for row in rows_of_terms() if row]
    assert_follows(SequenceSumConfig(), sum(sum(row) for row in rows) / len(rows))


def test_hand_worked_weights() -> None:
    weights = SequenceSumConfig().weights(torch.tensor([1, 4, 4, 4, 4]), MiniBatch(tokens=5, rows=2))
    assert weights.tolist() == [0.5] * 5
    assert weights.dtype == torch.float32


def test_denominator_is_that_of_the_global_mini_batch() -> None:
    weights = SequenceSumConfig().weights(torch.tensor([2, 2]), MiniBatch(tokens=80, rows=7))
    assert weights.tolist() == pytest.approx([1 / 7] * 2)


def test_empty_micro_batch_has_no_weights() -> None:
    assert SequenceSumConfig().weights(torch.empty(0, dtype=torch.int64), MiniBatch(9, 3)).shape == (0,)


def test_mini_batch_without_loss_has_finite_weights() -> None:
    assert torch.isfinite(SequenceSumConfig().weights(torch.tensor([0]), MiniBatch(0, 0))).all()
