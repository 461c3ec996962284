from dataclasses import dataclass

import pytest
import torch

from delta.collectives import alone
from delta.credit import Credit, CreditConfig, CreditInputs
from tests.delta.credit.reference import make_old_tokens


@dataclass(kw_only=True, slots=True)
class Everything(CreditConfig):
    """The smallest variant."""

    def estimate(self, inputs: CreditInputs) -> Credit:
        return Credit(torch.ones(len(inputs.tokens.rows)))


def test_a_variant_is_an_answer_to_estimate() -> None:
    inputs = CreditInputs(tokens=make_old_tokens([2, 1]))
    assert Everything().estimate(inputs).coefficients.tolist() == [1.0, 1.0, 1.0]


def test_a_config_without_an_answer_is_no_variant() -> None:
    with pytest.raises(TypeError, match="estimate"):
        CreditConfig()


def test_a_variant_wants_no_vectors_unless_it_says_so() -> None:
    def logits(hidden: torch.Tensor) -> torch.Tensor:
        raise AssertionError("nobody reads them")

    assert Everything().new_space(logits) is None


def test_coefficients_stay_as_they_are_unless_a_variant_follows_the_policy() -> None:
    tokens = make_old_tokens([3])
    coefficients = torch.tensor([0.5, 2.0, 0.5])
    assert torch.equal(Everything().refresh(coefficients, torch.tensor([1.0, -1.0, 3.0]), tokens), coefficients)


def test_inputs_are_those_of_a_single_process_unless_told() -> None:
    inputs = CreditInputs(tokens=make_old_tokens([1]))
    assert (inputs.space, inputs.all_reduce, inputs.seed) == (None, alone, 0)


def test_credit_has_nothing_to_say_unless_told() -> None:
    assert Credit(torch.ones(1)).metrics == {}
