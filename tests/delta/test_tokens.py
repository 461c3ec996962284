import math

import pytest
import torch

from delta.tokens import join, row_count, row_mean, row_sum
from tests.objectives import old_tokens

ROWS = torch.tensor([0, 0, 1, 3, 3, 3])  # row 2 has no token


def test_hand_worked_row_sums() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    assert row_count(ROWS) == 4
    assert row_sum(values, ROWS).tolist() == [3.0, 4.0, 0.0, 56.0]
    assert row_sum(values.long(), ROWS).tolist() == [3, 4, 0, 56]


def test_hand_worked_row_means_are_of_the_masked_tokens() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    mask = torch.tensor([True, False, False, True, True, False])
    assert row_mean(values, mask, ROWS).tolist() == [1.0, 0.0, 0.0, 12.0]


@pytest.mark.parametrize("junk", [math.nan, math.inf])
def test_values_off_the_mask_do_not_reach_the_mean_nor_its_gradient(junk: float) -> None:
    values = torch.tensor([1.0, junk, 5.0], requires_grad=True)
    mean = row_mean(values, torch.tensor([True, False, True]), torch.tensor([0, 0, 0]))
    mean.sum().backward()
    assert mean.tolist() == [3.0]
    assert values.grad.tolist() == [0.5, 0.0, 0.5]


def test_gradient_of_a_row_sum_reaches_its_own_tokens() -> None:
    values = torch.ones(6, requires_grad=True)
    (row_sum(values, ROWS) * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert values.grad.tolist() == [1.0, 1.0, 2.0, 4.0, 4.0, 4.0]


def test_nothing_has_no_rows() -> None:
    none = torch.empty(0, dtype=torch.int64)
    assert row_count(none) == 0
    assert row_sum(torch.empty(0), none).shape == (0,)
    assert row_mean(torch.empty(0), none.bool(), none).shape == (0,)


def test_sided_tokens_are_in_the_loss_and_have_an_advantage_of_either_sign() -> None:
    tokens = old_tokens(
        [-1.0] * 4, advantages=[1.0, -0.5, 0.0, 2.0], loss_mask=[True, True, True, False], row_lengths=[1] * 4
    )
    assert tokens.sided.tolist() == [True, True, False, False]


def test_row_tokens_count_the_loss_mask_of_the_tokens_own_row() -> None:
    mask = [True, False, True, False, False, True]
    tokens = old_tokens([-1.0] * 6, loss_mask=mask, row_lengths=[3, 2, 1])
    assert tokens.row_tokens.tolist() == [2, 2, 2, 0, 0, 1]
    assert tokens.loss_rows == 2


def test_no_tokens_have_no_loss_rows() -> None:
    tokens = old_tokens([])
    assert tokens.loss_rows == 0
    assert tokens.row_tokens.shape == tokens.sided.shape == (0,)


def test_joined_rows_are_counted_on_and_all_else_is_kept() -> None:
    first = old_tokens([-1.0, -2.0, -3.0], row_lengths=[1, 2], advantages=[1.0, 0.0, 0.0], ref_log_probs=[0.0] * 3)
    second = old_tokens(
        [-4.0, -5.0], row_lengths=[2], advantages=[0.0, 0.0], loss_mask=[True, False], ref_log_probs=[-7.0, -8.0]
    )
    whole = join([first, old_tokens([], ref_log_probs=[]), second])
    assert whole.rows.tolist() == [0, 1, 1, 2, 2]
    assert whole.log_probs.tolist() == [-1.0, -2.0, -3.0, -4.0, -5.0]
    assert whole.advantages.tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert whole.loss_mask.tolist() == [True, True, True, True, False]
    assert whole.ref_log_probs.tolist() == [0.0, 0.0, 0.0, -7.0, -8.0]
    assert whole.places.tolist() == [0, 1, 2, 0, 1]  # global places are the caller's


def test_joining_writes_to_no_part() -> None:
    part = old_tokens([-1.0, -2.0], row_lengths=[1, 1])
    join([part, part])
    assert part.rows.tolist() == [0, 1]


def test_no_reference_anywhere_is_no_reference() -> None:
    tokens = old_tokens([-1.0])
    assert join([tokens, tokens]).ref_log_probs is None
