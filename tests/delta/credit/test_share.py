import math

import pytest
import torch
from torch import Tensor

from delta.collectives import AllReduce
from delta.credit import Credit, CreditInputs, DiscriminativeConfig, RowProxy, ShareConfig
from delta.credit.share import Keep, scatter
from delta.tokens import OldTokens
from tests.delta.credit.reference import make_old_tokens, naive_coefficients, on_ranks, random_tokens


def inputs(vectors: Tensor, advantages: Tensor, *, mask: Tensor | None = None, seed: int = 0) -> CreditInputs:
    """One row per token."""
    mask = torch.ones(len(advantages), dtype=torch.bool) if mask is None else mask
    tokens = make_old_tokens([1] * len(advantages), advantages=advantages.tolist(), loss_mask=mask)
    return CreditInputs(tokens=tokens, space=space_of(vectors, tokens), seed=seed)


def space_of(vectors: Tensor, tokens: OldTokens) -> RowProxy:
    space = RowProxy()
    space.append_vectors(vectors[tokens.sided], tokens.advantages[tokens.sided])
    return space


@pytest.mark.parametrize("share", [0.1, 0.5, 0.85, 1.0])
@pytest.mark.parametrize("keep", [Keep.top, Keep.bottom])
def test_the_share_is_by_coefficient(keep: Keep, share: float) -> None:
    vectors, advantages = random_tokens(1, tokens=80)
    coefficients = naive_coefficients(vectors.tolist(), advantages.tolist(), refinements=1)
    sided = [i for i, advantage in enumerate(advantages.tolist()) if advantage != 0]
    order = sorted(sided, key=lambda i: coefficients[i], reverse=keep is Keep.top)
    kept = order[: math.ceil(share * len(sided))]
    expected = torch.ones(80)
    expected[sided] = 0.0
    expected[kept] = len(sided) / len(kept)
    found = ShareConfig(keep=keep, share=share).estimate(inputs(vectors, advantages))
    torch.testing.assert_close(found.coefficients, expected)
    assert found.coefficients.dtype == torch.float32
    assert found.metrics["credit/selected_share"] == pytest.approx(len(kept) / len(sided))


@pytest.mark.parametrize("keep", Keep)
def test_neutral_tokens_have_one_tokens_off_the_loss_mask_have_none_and_the_mean_is_one(keep: Keep) -> None:
    vectors, advantages = random_tokens(2, tokens=80, neutral=0.4)
    mask = torch.arange(80) % 3 != 0
    found = ShareConfig(keep=keep, share=0.3).estimate(inputs(vectors, advantages, mask=mask))
    assert found.coefficients[~mask].tolist() == [0.0] * int((~mask).sum())
    assert set(found.coefficients[mask & (advantages == 0)].tolist()) == {1.0}
    assert found.coefficients[mask].mean().item() == pytest.approx(1.0)
    assert len(found.coefficients[mask & (advantages != 0)].unique()) == 2


def test_a_random_share_has_the_size_asked_for() -> None:
    vectors, advantages = random_tokens(3, tokens=1000, neutral=0.0)
    found = ShareConfig(keep=Keep.random, share=0.25).estimate(inputs(vectors, advantages))
    assert int((found.coefficients > 0).sum()) == 250
    assert set(found.coefficients.unique().tolist()) == {0.0, 4.0}


def test_a_random_share_has_nothing_to_do_with_the_coefficients() -> None:
    vectors, advantages = random_tokens(4, tokens=2000, neutral=0.0)
    here = inputs(vectors, advantages)
    lambdas = DiscriminativeConfig().estimate(here).coefficients
    kept = ShareConfig(keep=Keep.random).estimate(here).coefficients
    assert abs(torch.corrcoef(torch.stack([lambdas, kept]))[0, 1].item()) < 0.07  # three deviations of 2,000 tokens


def test_a_random_share_is_another_for_another_seed() -> None:
    vectors, advantages = random_tokens(5, tokens=2000, neutral=0.0)
    config = ShareConfig(keep=Keep.random)
    draws = [config.estimate(inputs(vectors, advantages, seed=seed)).coefficients > 0 for seed in (0, 1, 2, 2)]
    assert torch.equal(draws[2], draws[3])
    for one, other in ((0, 1), (1, 2), (0, 2)):
        both = (draws[one] & draws[other]).double().mean().item()
        assert both == pytest.approx(0.25, abs=0.04)  # as if drawn independently


@pytest.mark.parametrize("keep", Keep)
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_share_does_not_depend_on_who_holds_the_tokens(ranks: int, keep: Keep) -> None:
    vectors, advantages = random_tokens(6, tokens=90)
    config = ShareConfig(keep=keep, share=0.4)
    expected = config.estimate(inputs(vectors, advantages, seed=7)).coefficients
    owner = torch.randint(ranks, (90,), generator=torch.Generator().manual_seed(ranks))
    held = [torch.nonzero(owner == rank).squeeze(1).flip(0) for rank in range(ranks)]  # in any order

    def run(rank: int, all_reduce: AllReduce) -> Credit:
        mine = held[rank]
        tokens = make_old_tokens([1] * len(mine), advantages=advantages[mine].tolist(), places=mine)
        space = space_of(vectors[mine], tokens)
        return config.estimate(CreditInputs(tokens=tokens, space=space, all_reduce=all_reduce, seed=7))

    credits, shapes = on_ranks(ranks, run)
    for mine, credit in zip(held, credits, strict=True):
        torch.testing.assert_close(credit.coefficients, expected[mine])
    assert all(other == shapes[0] for other in shapes)
    assert len({credit.metrics["credit/selected_share"] for credit in credits}) == 1


@pytest.mark.parametrize("keep", [Keep.top, Keep.bottom])
def test_equal_coefficients_are_selected_together(keep: Keep) -> None:
    # One side is empty, so there is nothing to tell tokens apart by.
    found = ShareConfig(keep=keep).estimate(inputs(torch.eye(3), torch.tensor([1.0, 2.0, 3.0])))
    assert found.coefficients.tolist() == [1.0, 1.0, 1.0]
    assert (found.metrics["credit/degenerate"], found.metrics["credit/selected_share"]) == (1.0, 1.0)


@pytest.mark.parametrize("keep", Keep)
def test_a_batch_without_an_advantage_has_only_ones(keep: Keep) -> None:
    found = ShareConfig(keep=keep).estimate(inputs(torch.eye(3), torch.zeros(3)))
    assert found.coefficients.tolist() == [1.0, 1.0, 1.0]
    assert found.metrics["credit/selected_share"] == 0.0


def test_metrics_are_those_of_delta_and_the_share() -> None:
    here = inputs(*random_tokens(8))
    metrics = dict(ShareConfig().estimate(here).metrics)
    del metrics["credit/selected_share"]
    assert metrics == DiscriminativeConfig().estimate(here).metrics


def test_scattered_places_are_uniform_and_independent() -> None:
    values = scatter(torch.arange(100_000), seed=3)
    assert values.dtype == torch.float32
    assert 0 <= values.min() < 1e-3
    assert 1 - 1e-3 < values.max() < 1
    counts = torch.histc(values, bins=20, min=0.0, max=1.0)
    assert (counts - 5000).abs().max() < 5 * math.sqrt(5000)
    for lag in (1, 2, 3, 16, 1000):  # neither neighbours nor tokens a row apart
        assert abs(torch.corrcoef(torch.stack([values[lag:], values[:-lag]]))[0, 1].item()) < 0.015
    assert len(values.unique()) > 99_000


@pytest.mark.parametrize("other", [1, 2, 1000, 2**31 - 1])
def test_scatters_of_two_seeds_are_independent(other: int) -> None:
    places = torch.arange(100_000)
    pair = torch.stack([scatter(places, seed=0), scatter(places, seed=other)])
    assert abs(torch.corrcoef(pair)[0, 1].item()) < 0.015
    assert not pair[0].sort().values.equal(pair[1].sort().values)  # not the same numbers moved along


def test_scatter_takes_any_seed_and_any_place() -> None:
    places = torch.tensor([0, 2**31, 2**40, 2**62])
    for seed in (0, -1, 2**31, 2**63 - 1):
        values = scatter(places, seed=seed)
        assert ((values >= 0) & (values < 1)).all()
        assert torch.equal(values[1:2], scatter(places[1:2], seed=seed))


def test_defaults_are_the_papers() -> None:
    assert (ShareConfig().keep, ShareConfig().share) == (Keep.top, 0.5)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"share": 0.0}, "share"),
        ({"share": 1.5}, "share"),
        ({"share": math.nan}, "share"),
        ({"lambda_min": -1.0}, "lam"),
    ],
)
def test_config_refuses_what_cannot_work(settings: dict[str, float], name: str) -> None:
    with pytest.raises(ValueError, match=f"credit.{name}"):
        ShareConfig(**settings)
