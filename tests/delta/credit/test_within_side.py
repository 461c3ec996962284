import math

import pytest
import torch
from torch import Tensor

from delta.collectives import AllReduce
from delta.credit import (
    Credit,
    CreditInputs,
    DiscriminativeConfig,
    Proxy,
    RowProxy,
    WithinSideConfig,
    discriminative_coefficients,
    estimate_credit,
)
from delta.credit.within_side import within_side_margins
from tests.delta.credit.reference import (
    closeness,
    fill,
    head_batch,
    make_old_tokens,
    naive_coefficients,
    on_ranks,
    random_tokens,
    sigmoid,
)


def within_side(vectors: Tensor, advantages: Tensor, *, neutral_tokens: int = 0, **settings: float) -> Tensor:
    space = RowProxy()
    space.append_vectors(vectors, advantages)
    credit = estimate_credit(space, neutral_tokens=neutral_tokens, margins=within_side_margins, **settings)
    return credit.coefficients


def test_hand_worked_batch() -> None:
    # mu+ = (0 * 3 + 4) / 4 = 1: distances 1 and 9, closeness +-4, deviation 4. mu- = 0: distances 4, 4, 0, mean 8/3,
    # closeness -4/3, -4/3, 8/3, deviation sqrt(32) / 3.
    vectors = torch.tensor([[0.0], [4.0], [-2.0], [2.0], [0.0]])
    advantages = torch.tensor([3.0, 1.0, -1.0, -1.0, -1.0])
    deviation = math.sqrt(32) / 3
    scores = [1.0, -1.0, -4 / 3 / deviation, -4 / 3 / deviation, 8 / 3 / deviation]
    raw = torch.tensor([0.8 + 0.4 * sigmoid(score) for score in scores])
    torch.testing.assert_close(within_side(vectors, advantages, refinements=0), raw / raw.mean())


@pytest.mark.parametrize("proxy", Proxy)
@pytest.mark.parametrize(
    "settings",
    [{"refinements": 0}, {}, {"refinements": 3}, {"temperature": 4.0}, {"lambda_min": 0.2, "lambda_max": 2.0}],
    ids=str,
)
def test_config_gives_the_coefficients_of_the_naive_loop(settings: dict[str, float], proxy: Proxy) -> None:
    batch = head_batch(1)
    config = WithinSideConfig(proxy=proxy, **settings)
    dense = batch.row_vectors() if proxy is Proxy.row else batch.head_gradients()
    expected = naive_coefficients(dense.tolist(), batch.advantages.tolist(), score=closeness, **settings)
    tokens = make_old_tokens([1] * len(batch.targets), advantages=batch.advantages.tolist())
    found = config.estimate(CreditInputs(tokens=tokens, space=fill(config.new_space(batch.logits), batch)))
    torch.testing.assert_close(found.coefficients, torch.tensor(expected), rtol=0, atol=1e-6)
    assert found.metrics["credit/degenerate"] == 0.0


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_coefficients_do_not_depend_on_the_ranks(ranks: int) -> None:
    vectors, advantages = random_tokens(2)
    owner = torch.arange(len(advantages)) % ranks
    config = WithinSideConfig(refinements=2)

    def run(rank: int, all_reduce: AllReduce) -> Credit:
        mine = owner == rank
        sided = mine & (advantages != 0)
        space = RowProxy()
        space.append_vectors(vectors[sided], advantages[sided])
        tokens = make_old_tokens([1] * int(mine.sum()), advantages=advantages[mine].tolist())
        return config.estimate(CreditInputs(tokens=tokens, space=space, all_reduce=all_reduce))

    expected = torch.tensor(naive_coefficients(vectors.tolist(), advantages.tolist(), refinements=2, score=closeness))
    for rank, credit in enumerate(on_ranks(ranks, run)[0]):
        torch.testing.assert_close(credit.coefficients, expected[owner == rank], rtol=0, atol=1e-5)


def test_the_common_and_not_the_telling_tokens_get_most() -> None:
    # What both sides share is in the majority: DelTA sees through it, closeness to the own centroid does not.
    vectors = torch.tensor([[0.0]] * 6 + [[3.0]] * 2 + [[0.0]] * 6 + [[-3.0]] * 2)
    advantages = torch.tensor([1.0] * 8 + [-1.0] * 8)
    telling = vectors.squeeze(1) != 0
    ablation, delta = within_side(vectors, advantages), discriminative_coefficients(vectors, advantages)
    assert ablation[telling].max() < ablation[~telling].min()
    assert delta[telling].min() > delta[~telling].max()


@pytest.mark.parametrize("refinements", [0, 2])
def test_a_side_does_not_look_at_the_other(refinements: int) -> None:
    vectors, advantages = random_tokens(3, neutral=0.0)
    other = vectors.clone()
    other[advantages < 0] = torch.flip(vectors[advantages < 0], dims=[0]) * 3 + 1
    positive = advantages > 0

    def shape(coefficients: Tensor) -> Tensor:
        return coefficients[positive] / coefficients[positive].sum()

    settings = {"refinements": refinements}
    unmoved = shape(within_side(other, advantages, **settings))
    torch.testing.assert_close(unmoved, shape(within_side(vectors, advantages, **settings)))
    moved = shape(discriminative_coefficients(other, advantages, **settings))
    assert (moved - shape(discriminative_coefficients(vectors, advantages, **settings))).abs().max() > 1e-3


def test_it_is_delta_where_the_other_side_says_nothing_new() -> None:
    # Two points per side: on a line, both scores are linear functions of the same order and both deviations divide.
    vectors = torch.tensor([[1.0], [3.0], [-1.0], [-3.0]])
    advantages = torch.tensor([1.0, 3.0, -1.0, -3.0])
    # mu = +-2.5: closer is 3. Closeness 1 and -1, deviation 1; margins 10 and 30, deviation 10.
    near, far = 0.8 + 0.4 * sigmoid(1), 0.8 + 0.4 * sigmoid(-1)
    expected = torch.tensor([far, near, far, near]) * 2 / (near + far)
    torch.testing.assert_close(within_side(vectors, advantages, refinements=0), expected)
    near, far = 0.8 + 0.4 * sigmoid(3), 0.8 + 0.4 * sigmoid(1)
    expected = torch.tensor([far, near, far, near]) * 2 / (near + far)
    torch.testing.assert_close(discriminative_coefficients(vectors, advantages, refinements=0), expected)


def test_an_unusable_token_counts_as_one_without_a_side() -> None:
    vectors, advantages = random_tokens(4, neutral=0.0)
    broken = vectors.clone()
    broken[::5] = math.nan
    keep = torch.arange(len(advantages)) % 5 != 0
    expected = within_side(vectors[keep], advantages[keep], neutral_tokens=int((~keep).sum()))
    coefficients = within_side(broken, advantages)
    torch.testing.assert_close(coefficients[keep], expected)
    assert len(coefficients[~keep].unique()) == 1
    assert coefficients[~keep].max() < coefficients[keep].min()


def test_a_side_of_one_token_is_as_close_as_the_average() -> None:
    # Its closeness is 0 whatever its vector, so alpha is a half.
    vectors = torch.tensor([[5.0], [1.0], [1.0]])
    coefficients = within_side(vectors, torch.tensor([1.0, -1.0, -1.0]))
    torch.testing.assert_close(coefficients, torch.ones(3))


def test_defaults_are_those_of_delta() -> None:
    ablation, delta = WithinSideConfig(), DiscriminativeConfig()
    assert ablation.refinements == delta.refinements == 1
    assert (ablation.lambda_min, ablation.lambda_max) == (delta.lambda_min, delta.lambda_max) == (0.8, 1.2)


def test_config_refuses_what_cannot_work() -> None:
    with pytest.raises(ValueError, match=r"credit\.refinements"):
        WithinSideConfig(refinements=-1)
