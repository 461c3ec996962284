import math

import pytest
import torch
from torch import Tensor

from delta.credit import RowProxy, estimate_credit, token_vectors
from delta.credit.cache import RowCache
from tests.delta.credit.reference import fill, head_batch


def test_proxy_is_the_gradient_of_log_p_for_the_sampled_row() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens, hidden_size, vocabulary = 6, 5, 9
    head = torch.randn(vocabulary, hidden_size, dtype=torch.float64, generator=generator, requires_grad=True)
    hidden = torch.randn(tokens, hidden_size, dtype=torch.float64, generator=generator)
    sampled = torch.randint(vocabulary, (tokens,), generator=generator)
    log_probs = torch.log_softmax(hidden @ head.T, dim=-1)[torch.arange(tokens), sampled]
    expected = torch.stack(
        [
            torch.autograd.grad(log_prob, head, retain_graph=True)[0][token]
            for log_prob, token in zip(log_probs, sampled, strict=True)
        ]
    )
    torch.testing.assert_close(token_vectors(hidden, log_probs.detach()), expected)


@pytest.mark.parametrize("rest", [1e-3, 1e-6, 1e-12, 1e-30])
def test_proxy_keeps_one_minus_p_where_p_is_near_one(rest: float) -> None:
    log_probs = torch.tensor([math.log1p(-rest)], dtype=torch.float64).float()
    vectors = token_vectors(torch.tensor([[3.0, -2.0]]), log_probs)
    torch.testing.assert_close(vectors, torch.tensor([[3.0, -2.0]]) * rest, rtol=1e-4, atol=0)


def test_certain_token_has_no_gradient() -> None:
    assert torch.equal(token_vectors(torch.ones(1, 3), torch.zeros(1)).abs(), torch.zeros(1, 3))


def test_impossible_token_has_the_whole_hidden_state() -> None:
    hidden = torch.tensor([[1.0, -2.0, 3.0]])
    assert torch.equal(token_vectors(hidden, torch.tensor([-torch.inf])), hidden)
    torch.testing.assert_close(token_vectors(hidden, torch.tensor([-80.0])), hidden)


def test_proxy_keeps_the_dtype_of_the_hidden_states() -> None:
    vectors = token_vectors(torch.ones(2, 3, dtype=torch.bfloat16), torch.tensor([-0.5, -1e-5]))
    assert vectors.dtype == torch.bfloat16
    torch.testing.assert_close(vectors[:, 0].float(), torch.tensor([0.3935, 1e-5]), rtol=1e-2, atol=0)


def test_proxy_of_no_tokens_is_empty() -> None:
    assert token_vectors(torch.empty(0, 4), torch.empty(0)).shape == (0, 4)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="got shape"):
        token_vectors(torch.ones(2, 3), torch.ones(3))
    with pytest.raises(ValueError, match="got shape"):
        token_vectors(torch.ones(2, 3, 4), torch.ones(2))


def test_a_row_space_holds_the_row_vectors() -> None:
    batch = head_batch(0)
    by_tokens, by_vectors = RowProxy(), RowProxy()
    by_tokens.append(batch.hidden, batch.log_probs, batch.targets, batch.advantages)
    by_vectors.append_vectors(token_vectors(batch.hidden, batch.log_probs), batch.advantages)
    assert torch.equal(by_tokens.advantage_sums(), by_vectors.advantage_sums())
    weights = torch.rand(40, generator=torch.Generator().manual_seed(1))
    assert torch.equal(by_tokens.sums(weights), by_vectors.sums(weights))


def test_targets_do_not_matter_to_the_row_space() -> None:
    batch = head_batch(1)
    spaces = [RowProxy(), RowProxy()]
    for space, targets in zip(spaces, (batch.targets, batch.targets.flip(0)), strict=True):
        space.append(batch.hidden, batch.log_probs, targets, batch.advantages)
    assert torch.equal(spaces[0].advantage_sums(), spaces[1].advantage_sums())


def test_the_first_sums_are_those_of_a_sweep() -> None:
    # They are taken while the vectors are warm, micro-batch by micro-batch.
    batch = head_batch(2)
    space = fill(RowProxy(), batch, sizes=[7, 0, 20])
    torch.testing.assert_close(space.advantage_sums(), space.sums(space.advantages.abs()))
    assert space.advantage_sums().dtype == torch.float64


def test_the_first_sums_are_of_the_vectors_as_stored() -> None:
    batch = head_batch(3)
    rounded = RowProxy(RowCache(dtype=torch.bfloat16))
    fill(rounded, batch)
    torch.testing.assert_close(rounded.advantage_sums(), rounded.sums(rounded.advantages.abs()), rtol=1e-6, atol=1e-6)


def test_writing_into_the_first_sums_does_not_change_the_space() -> None:
    space = fill(RowProxy(), head_batch(4))
    before = space.advantage_sums()
    space.advantage_sums().zero_()  # as an all-reduce may
    assert torch.equal(space.advantage_sums(), before)


def test_a_space_that_was_never_appended_to_says_what_it_needs() -> None:
    with pytest.raises(ValueError, match="needs one append"):
        RowProxy().advantage_sums()
    with pytest.raises(ValueError, match="needs one append"):
        RowProxy().sums(torch.empty(0))


@pytest.mark.parametrize("largest", [1e19, 1e30, 3e38])
def test_sums_and_products_do_not_overflow_on_the_way(largest: float) -> None:
    # float32 vectors: their squares, and sums of a few of them, are beyond its range.
    generator = torch.Generator().manual_seed(5)
    vectors = torch.rand(30, 64, generator=generator) * 2 - 1
    vectors[0] = 1.0
    advantages = torch.where(torch.arange(30) % 2 == 0, 7.0, -7.0)
    space = RowProxy()
    space.append_vectors(vectors * largest, advantages)
    wide = (vectors * largest).double()
    expected = torch.stack([7 * wide[::2].sum(dim=0), 7 * wide[1::2].sum(dim=0)])
    assert_near(space.advantage_sums(), expected)
    assert_near(space.sums(torch.full((30,), 7.0)), expected)
    direction = torch.full((64,), largest, dtype=torch.float64)
    assert_near(space.project(direction), wide @ direction)
    assert_near(space.squared_norms(), wide.square().sum(dim=1))


def assert_near(seen: Tensor, expected: Tensor) -> None:
    """To float32, relative to the largest number."""
    assert torch.isfinite(seen).all()
    assert ((seen - expected).abs().max() / expected.abs().max()).item() < 1e-5


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_vector_that_is_not_finite_is_flagged_as_unusable(bad: float) -> None:
    batch = head_batch(6)
    log_probs = batch.log_probs
    log_probs[4] = math.nan
    hidden = batch.hidden.clone()
    hidden[9, 2] = bad
    space = RowProxy()
    space.append(hidden, log_probs, batch.targets, batch.advantages)
    assert torch.nonzero(~space.usable).flatten().tolist() == [4, 9]
    assert torch.isfinite(space.advantage_sums()).all()


@pytest.mark.parametrize("refinements", [0, 1, 3])
def test_vectors_are_swept_over_twice_a_round_and_once_more(refinements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    space = fill(RowProxy(), head_batch(8))
    sweeps = []
    chunks = RowCache.chunks
    monkeypatch.setattr(RowCache, "chunks", lambda self: (sweeps.append(self), chunks(self))[1])
    estimate_credit(space, neutral_tokens=0, refinements=refinements)
    assert len(sweeps) == 2 * refinements + 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("budget", [None, 20_000, 0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_coefficients_on_a_gpu_are_those_of_a_cpu(dtype: torch.dtype, budget: int | None) -> None:
    batch = head_batch(7, tokens=900, hidden=64, dtype=torch.float32)
    log_probs = batch.log_probs
    log_probs[5] = math.nan
    found = {}
    for device in ("cpu", "cuda"):
        space = RowProxy(RowCache(dtype=dtype, device_budget_bytes=budget))
        for part in torch.arange(900).split(100):
            columns = (batch.hidden, log_probs, batch.targets, batch.advantages)
            space.append(*[column[part].to(device) for column in columns])
        found[device] = estimate_credit(space, neutral_tokens=3)
        assert found[device].coefficients.device.type == device
    torch.testing.assert_close(found["cuda"].coefficients.cpu(), found["cpu"].coefficients, rtol=0, atol=1e-5)
    assert found["cuda"].unusable_tokens == found["cpu"].unusable_tokens == 1
