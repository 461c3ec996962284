import torch

from delta.credit import CreditInputs, UniformConfig
from tests.delta.credit.reference import make_old_tokens


def test_every_token_of_the_loss_mask_counts_the_same() -> None:
    loss_mask = torch.tensor([True, False, True, True, False])
    tokens = make_old_tokens([2, 3], advantages=[1.5, 0.0], loss_mask=loss_mask)
    credit = UniformConfig().estimate(CreditInputs(tokens=tokens))
    assert credit.coefficients.tolist() == [1.0, 0.0, 1.0, 1.0, 0.0]
    assert credit.coefficients.dtype == torch.float32
    assert credit.metrics == {}


def test_no_vectors_are_kept() -> None:
    assert UniformConfig().new_space(lambda hidden: hidden) is None


def test_coefficients_do_not_follow_the_policy() -> None:
    tokens = make_old_tokens([3])
    assert torch.equal(UniformConfig().refresh(torch.ones(3), torch.randn(3), tokens), torch.ones(3))


def test_no_token_gives_no_coefficient() -> None:
    assert UniformConfig().estimate(CreditInputs(tokens=make_old_tokens([]))).coefficients.shape == (0,)
