import math

import pytest
import torch

from delta.collectives import AllReduce
from delta.credit import Credit, CreditInputs, ForkingConfig
from tests.delta.credit.reference import make_old_tokens, on_ranks


def test_the_tokens_of_highest_entropy_share_the_weight_of_all() -> None:
    entropy = torch.tensor([0.1, 2.0, 0.3, 0.0, 1.0, 0.2, 0.4, 0.5, 0.6, 0.7])
    tokens = make_old_tokens([4, 6], entropy=entropy)
    credit = ForkingConfig(share=0.2).estimate(CreditInputs(tokens=tokens))
    assert credit.coefficients.tolist() == [0, 5, 0, 0, 5, 0, 0, 0, 0, 0]
    assert credit.coefficients.dtype == torch.float32
    assert credit.metrics == {"credit/selected_share": 0.2}


def test_only_the_loss_mask_takes_part() -> None:
    entropy = torch.tensor([9.0, 1.0, 2.0, 3.0, 9.0])
    loss_mask = torch.tensor([False, True, True, True, False])
    tokens = make_old_tokens([2, 3], entropy=entropy, loss_mask=loss_mask)
    credit = ForkingConfig(share=0.3).estimate(CreditInputs(tokens=tokens))
    assert credit.coefficients.tolist() == [0, 0, 0, 3, 0]
    assert credit.metrics == {"credit/selected_share": pytest.approx(1 / 3)}


def test_tokens_without_an_advantage_take_part() -> None:
    tokens = make_old_tokens([1, 1, 2], advantages=[0.0, 1.0, -1.0], entropy=torch.tensor([3.0, 1.0, 2.0, 0.0]))
    credit = ForkingConfig(share=0.5).estimate(CreditInputs(tokens=tokens))
    assert credit.coefficients.tolist() == [2, 0, 2, 0]


def test_ties_are_selected_together_and_the_mean_stays_one() -> None:
    tokens = make_old_tokens([5], entropy=torch.tensor([1.0, 0.5, 0.5, 0.5, 0.0]))
    credit = ForkingConfig(share=0.4).estimate(CreditInputs(tokens=tokens))
    assert credit.coefficients.tolist() == [1.25, 1.25, 1.25, 1.25, 0]
    assert credit.metrics == {"credit/selected_share": 0.8}


def test_certain_tokens_are_ranked_below_all_others_and_nan_below_them() -> None:
    entropy = torch.tensor([math.nan, 0.0, -0.0, 0.1])
    tokens = make_old_tokens([4], entropy=entropy)
    for share, expected in ((0.25, [0, 0, 0, 4]), (0.5, [0, 4 / 3, 4 / 3, 4 / 3]), (1.0, [1, 1, 1, 1])):
        coefficients = ForkingConfig(share=share).estimate(CreditInputs(tokens=tokens)).coefficients
        assert coefficients.tolist() == pytest.approx(expected)


def test_the_whole_share_is_uniform() -> None:
    tokens = make_old_tokens([3], entropy=torch.tensor([1.0, 2.0, 3.0]))
    assert ForkingConfig(share=1.0).estimate(CreditInputs(tokens=tokens)).coefficients.tolist() == [1, 1, 1]


def test_no_token_gives_no_coefficient() -> None:
    for tokens in (make_old_tokens([]), make_old_tokens([2], loss_mask=torch.zeros(2, dtype=torch.bool))):
        credit = ForkingConfig().estimate(CreditInputs(tokens=tokens))
        assert credit.coefficients.tolist() == [0.0] * len(tokens.rows)
        assert credit.metrics == {"credit/selected_share": 0.0}


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("share", [0.2, 0.55])
def test_the_threshold_is_of_the_global_batch(ranks: int, share: float) -> None:
    generator = torch.Generator().manual_seed(ranks)
    entropy = torch.rand(120, generator=generator)
    entropy[:40] += 1.0  # the first rank holds more than its share of the undecided tokens
    loss_mask = torch.rand(120, generator=generator) < 0.8
    owner = (torch.arange(120) * ranks) // 120

    def run(rank: int, all_reduce: AllReduce) -> Credit:
        mine = owner == rank
        tokens = make_old_tokens([int(mine.sum())], entropy=entropy[mine], loss_mask=loss_mask[mine])
        return ForkingConfig(share=share).estimate(CreditInputs(tokens=tokens, all_reduce=all_reduce))

    total = int(loss_mask.sum())
    wanted = math.ceil(share * total)
    threshold = entropy[loss_mask].sort(descending=True).values[wanted - 1]
    expected = (loss_mask & (entropy >= threshold)).float() * total / wanted
    credits, _ = on_ranks(ranks, run)
    torch.testing.assert_close(torch.cat([credit.coefficients for credit in credits]), expected)
    assert {credit.metrics["credit/selected_share"] for credit in credits} == {wanted / total}


def test_defaults_are_the_papers() -> None:
    assert ForkingConfig().share == 0.2


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, math.nan])
def test_config_refuses_what_cannot_work(share: float) -> None:
    with pytest.raises(ValueError, match=r"credit\.share"):
        ForkingConfig(share=share)
