import math
from itertools import pairwise

import pytest
import torch

from delta.losses import weighted_sum


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_hand_worked_sum() -> None:
    # 2 * 0.5 * 3 + (-4) * 1.5 * 0.25
    total = weighted_sum(torch.tensor([2.0, -4.0]), torch.tensor([0.5, 1.5]), torch.tensor([3.0, 0.25]))
    assert total.shape == ()
    assert total.item() == 1.5


def test_a_factor_that_is_none_is_one() -> None:
    terms, factor = torch.tensor([2.0, -4.0]), torch.tensor([0.5, 1.5])
    assert weighted_sum(terms, None, factor, None) == weighted_sum(terms, factor) == -5.0
    assert weighted_sum(terms, None) == weighted_sum(terms) == -2.0


def test_sum_equals_the_loop() -> None:
    terms, *factors = torch.randn(4, 30, generator=seeded(), dtype=torch.float64)
    expected = sum(math.prod(column) for column in zip(*(row.tolist() for row in (terms, *factors)), strict=True))
    assert weighted_sum(terms, *factors).item() == pytest.approx(expected)


def test_shards_add_up_to_the_whole() -> None:
    terms, credit, weights = torch.randn(3, 30, generator=seeded(), dtype=torch.float64)
    cuts = [0, 3, 3, 17, 30]  # one shard is empty
    shares = [weighted_sum(terms[start:end], credit[start:end], weights[start:end]) for start, end in pairwise(cuts)]
    torch.testing.assert_close(torch.stack(shares).sum(), weighted_sum(terms, credit, weights))


def test_gradient_is_the_product_of_the_factors() -> None:
    terms = torch.ones(3, requires_grad=True)
    weighted_sum(terms, torch.tensor([0.5, 1.0, 1.5]), torch.tensor([2.0, 0.0, -1.0])).backward()
    assert terms.grad.tolist() == [1.0, 0.0, -1.5]


def test_empty_share_is_zero_and_can_be_differentiated() -> None:
    terms = torch.empty(0, requires_grad=True)
    total = weighted_sum(terms, torch.empty(0), None)
    total.backward()
    assert total.item() == 0.0
    assert terms.grad is not None


@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("factors", [([1.0, 0.0], [0.5, 2.0]), ([1.0, 3.0], [0.5, 0.0]), ([1.0, 0.0], [0.5, 0.0])])
def test_term_of_weight_zero_does_not_count_even_if_it_is_not_finite(
    junk: float, factors: tuple[list[float], list[float]]
) -> None:
    terms = torch.tensor([4.0, junk], requires_grad=True)
    total = weighted_sum(terms, *(torch.tensor(factor) for factor in factors))
    total.backward()
    assert total.item() == 2.0
    assert terms.grad.tolist() == [0.5, 0.0]


def test_terms_of_weight_one_that_are_not_finite_are_not_hidden() -> None:
    assert weighted_sum(torch.tensor([1.0, math.nan]), torch.ones(2)).isnan()


def test_nothing_is_written_to() -> None:
    terms, factor = torch.tensor([2.0, 3.0]), torch.tensor([0.0, 1.0])
    weighted_sum(terms, factor)
    assert terms.tolist() == [2.0, 3.0]
    assert factor.tolist() == [0.0, 1.0]
