import pytest
import torch

from delta.aggregations import ConstantLengthConfig, MiniBatch
from tests.delta.aggregations.batch import assert_follows, rows_of_terms


@pytest.mark.parametrize("length", [1, 16])
def test_loss_is_the_mean_of_the_sums_over_the_length(length: int) -> None:
    rows = [row for row in rows_of_terms() if row]
    assert_follows(ConstantLengthConfig(length=length), sum(sum(row) / length for row in rows) / len(rows))


def test_hand_worked_weights() -> None:
    weights = ConstantLengthConfig(length=8).weights(torch.tensor([1, 4, 4, 4, 4]), MiniBatch(tokens=5, rows=2))
    assert weights.tolist() == [1 / 16] * 5
    assert weights.dtype == torch.float32


def test_weight_of_a_token_does_not_depend_on_how_long_rollouts_are() -> None:
    config = ConstantLengthConfig(length=10)
    short = config.weights(torch.tensor([1, 1]), MiniBatch(tokens=2, rows=2))
    long = config.weights(torch.tensor([9, 9]), MiniBatch(tokens=18, rows=2))
    assert torch.equal(short, long)


def test_empty_micro_batch_has_no_weights() -> None:
    assert ConstantLengthConfig().weights(torch.empty(0, dtype=torch.int64), MiniBatch(9, 3)).shape == (0,)


def test_mini_batch_without_loss_has_finite_weights() -> None:
    assert torch.isfinite(ConstantLengthConfig().weights(torch.tensor([0]), MiniBatch(0, 0))).all()


@pytest.mark.parametrize("length", [0, -1])
def test_config_refuses_what_cannot_work(length: int) -> None:
    with pytest.raises(ValueError, match=rf"aggregation\.length={length}"):
        ConstantLengthConfig(length=length)
