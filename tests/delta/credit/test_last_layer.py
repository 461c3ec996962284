import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from delta.credit import LastLayerProxy, RowProxy, discriminative_coefficients, estimate_credit
from delta.credit.cache import CHUNK_ELEMENTS, RowCache
from delta.credit.discriminative import SIGMA_FLOOR
from tests.delta.credit.reference import HeadBatch, fill, head_batch, naive_coefficients


class TwoLayers(torch.nn.Module):
    """The smallest model with an LM head: previous tokens to hidden states to logits."""

    def __init__(self, *, vocabulary: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(vocabulary, hidden)
        self.layer = torch.nn.Linear(hidden, hidden)
        self.head = torch.nn.Linear(hidden, vocabulary, bias=False)
        self.double()
        for parameter in self.parameters():
            torch.nn.init.normal_(parameter, generator=generator)

    def hidden(self, previous: Tensor) -> Tensor:
        return torch.tanh(self.layer(self.embedding(previous)))


def last_layer(batch: HeadBatch, cache: RowCache | None = None) -> LastLayerProxy:
    space = LastLayerProxy(batch.logits, cache)
    fill(space, batch)
    return space


@pytest.mark.parametrize("refinements", [0, 1, 2, 3])
@pytest.mark.parametrize("temperature", [1.0, 0.6, 3.0])
def test_coefficients_are_those_of_the_gradients_of_a_models_head(refinements: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(refinements)
    tokens, vocabulary = 50, 13
    model = TwoLayers(vocabulary=vocabulary, hidden=6, generator=generator)
    previous, targets = torch.randint(vocabulary, (2, tokens), generator=generator)
    advantages = torch.randn(tokens, generator=generator)
    log_probs = torch.log_softmax(model.head(model.hidden(previous)) / temperature, dim=-1)
    log_probs = log_probs.gather(1, targets.unsqueeze(1)).squeeze(1)
    gradients = torch.stack(
        [torch.autograd.grad(one, model.head.weight, retain_graph=True)[0].flatten() for one in log_probs]
    )
    expected = discriminative_coefficients(gradients, advantages, refinements=refinements)
    naive = naive_coefficients(gradients.tolist(), advantages.tolist(), refinements=refinements)
    torch.testing.assert_close(expected, torch.tensor(naive), rtol=0, atol=1e-6)

    space = LastLayerProxy(lambda hidden: model.head(hidden.double()) / temperature)
    space.append(model.hidden(previous), log_probs, targets, advantages)
    coefficients = estimate_credit(space, neutral_tokens=0, refinements=refinements).coefficients
    assert (expected.max() - expected.min()).item() > 0.2
    torch.testing.assert_close(coefficients, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", range(3))
def test_coefficients_are_those_of_the_gradients_in_every_precision(dtype: torch.dtype, seed: int) -> None:
    batch = head_batch(seed, dtype=dtype)
    exact = replace(batch, hidden=batch.hidden.double(), head=batch.head.double())  # the same numbers, wider
    expected = discriminative_coefficients(exact.head_gradients(), batch.advantages)
    # The head is evaluated in float32 or better, whatever it was stored in.
    wide = replace(batch, head=batch.head.to(torch.promote_types(dtype, torch.float32)))
    coefficients = estimate_credit(last_layer(wide), neutral_tokens=0).coefficients
    torch.testing.assert_close(coefficients, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [1e-3, 1.0])
def test_the_factor_of_the_temperature_matters_only_at_the_floor(size: float) -> None:
    batch = head_batch(4, temperature=0.25)
    small = replace(batch, hidden=batch.hidden * size, head=batch.head / size)  # the same policy, smaller gradients
    gradients = small.head_gradients()
    coefficients = estimate_credit(last_layer(small), neutral_tokens=0).coefficients
    without_factor = discriminative_coefficients(gradients * 0.25, batch.advantages)
    torch.testing.assert_close(coefficients, without_factor, rtol=0, atol=1e-5)
    difference = (coefficients - discriminative_coefficients(gradients, batch.advantages)).abs().max().item()
    temperatures = estimate_credit(last_layer(small), neutral_tokens=0).temperatures
    assert (difference > 1e-3) == (min(temperatures) == SIGMA_FLOOR) == (size < 1)


@pytest.mark.parametrize("elements", [1, 11, 40, 100, 10_000])
def test_chunking_changes_nothing(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = head_batch(5)
    expected = estimate_credit(last_layer(batch), neutral_tokens=2, refinements=2)
    monkeypatch.setitem(CHUNK_ELEMENTS, "cpu", elements)
    batch.asked.clear()
    credit = estimate_credit(last_layer(batch), neutral_tokens=2, refinements=2)
    torch.testing.assert_close(credit.coefficients, expected.coefficients, rtol=0, atol=1e-6)
    sweeps = batch.asked[1:]  # the first is of the batch's own log-probs
    assert max(sweeps) == min(40, max(1, elements // 11))  # rows of the vocabulary, which is wider than the hidden size


def test_chunks_are_of_the_wider_of_hidden_size_and_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = head_batch(6, hidden=20, vocabulary=3)
    space = last_layer(batch)
    monkeypatch.setitem(CHUNK_ELEMENTS, "cpu", 100)
    batch.asked.clear()
    space.squared_norms()
    assert batch.asked == [1, *[5] * 8]  # a probe for the size of the vocabulary, then chunks


@pytest.mark.parametrize("refinements", [0, 1, 3])
def test_the_head_is_evaluated_twice_a_round(refinements: int) -> None:
    batch = head_batch(7)
    space = last_layer(batch)
    batch.asked.clear()
    estimate_credit(space, neutral_tokens=0, refinements=refinements)
    assert batch.asked == [1, *[40] * 2 * (refinements + 1)]


def test_hand_worked_gradients() -> None:
    # Two tokens, logits (ln 3, 0): p = (3/4, 1/4). Token 0 has (e_0 - p) = (1/4, -1/4), token 1 (-3/4, 3/4); h = 2.
    space = LastLayerProxy(lambda hidden: hidden @ torch.tensor([[math.log(3) / 2, 0.0]]))
    hidden = torch.tensor([[2.0], [2.0]])
    space.append(hidden, torch.tensor([0.75, 0.25]).log(), torch.tensor([0, 1]), torch.tensor([1.0, -3.0]))
    expected = torch.tensor([[[0.5], [-0.5]], [[3 * -1.5], [3 * 1.5]]])
    torch.testing.assert_close(space.advantage_sums().float(), expected)
    torch.testing.assert_close(
        space.sums(torch.tensor([1.0, 1.0])).float(), expected / torch.tensor([[[1.0]], [[3.0]]])
    )
    direction = torch.tensor([[10.0], [1.0]])
    torch.testing.assert_close(space.project(direction).float(), torch.tensor([4.5, -13.5]))
    torch.testing.assert_close(space.squared_norms().float(), torch.tensor([0.5, 4.5]))


def test_tokens_of_equal_hidden_states_are_told_apart_by_what_they_predict() -> None:
    # The policy is undecided everywhere and all hidden states are equal, so all rows of the gradient are: only which
    # token was sampled tells the sides apart. Token 0 is right, token 1 is wrong, token 2 is on both sides.
    targets = torch.tensor([0, 0, 2, 2, 1, 1, 2, 2])
    advantages = torch.tensor([1.0] * 4 + [-1.0] * 4)
    batch = HeadBatch(torch.ones(8, 3), torch.zeros(5, 3), targets, advantages)
    rows = RowProxy()
    fill(rows, batch)
    assert torch.equal(estimate_credit(rows, neutral_tokens=0).coefficients, torch.ones(8))
    coefficients = estimate_credit(last_layer(batch), neutral_tokens=0).coefficients
    assert coefficients[targets != 2].min() > coefficients[targets == 2].max() + 0.1
    expected = discriminative_coefficients(batch.head_gradients(), advantages)
    torch.testing.assert_close(coefficients, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("gap", [5.0, 20.0, 60.0])
def test_what_is_left_of_a_certain_token_is_kept(gap: float) -> None:
    # 1 - p is exp(-gap), far below the rounding of a float32 near 1.
    space = LastLayerProxy(lambda hidden: torch.tensor([[gap, 0.0]]).expand(len(hidden), 2))
    space.append(torch.ones(1, 1), torch.zeros(1), torch.tensor([0]), torch.ones(1))
    rest = 1 / (1 + math.exp(gap))
    torch.testing.assert_close(
        space.squared_norms(), torch.tensor([2 * rest**2], dtype=torch.float64), rtol=1e-5, atol=0
    )
    sums = torch.tensor([[[rest], [-rest]], [[0.0], [0.0]]])
    torch.testing.assert_close(space.advantage_sums().float(), sums, rtol=1e-5, atol=0)


def test_huge_hidden_states_give_the_coefficients_of_smaller_ones() -> None:
    batch = head_batch(8, dtype=torch.float32)
    expected = estimate_credit(last_layer(batch), neutral_tokens=0, refinements=2).coefficients
    huge = LastLayerProxy(lambda hidden: batch.logits(hidden * 2.0**-100))  # as behind a final normalisation
    huge.append(batch.hidden * 2.0**100, batch.log_probs, batch.targets, batch.advantages)
    coefficients = estimate_credit(huge, neutral_tokens=0, refinements=2).coefficients
    torch.testing.assert_close(coefficients, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_token_without_a_log_prob_is_unusable_and_in_no_sum(bad: float) -> None:
    batch = head_batch(9)
    log_probs = batch.log_probs
    log_probs[6] = bad
    space = LastLayerProxy(batch.logits)
    space.append(batch.hidden, log_probs, batch.targets, batch.advantages)
    assert torch.nonzero(~space.usable).flatten().tolist() == [6]
    weights = batch.advantages.abs().double()
    weights[6] = 0.0
    torch.testing.assert_close(space.advantage_sums(), last_layer(batch).sums(weights))


def test_logits_that_are_masked_out_are_not_in_the_gradient() -> None:
    batch = head_batch(10)
    masked = LastLayerProxy(lambda hidden: torch.nn.functional.pad(batch.logits(hidden), (0, 2), value=-math.inf))
    fill(masked, batch)
    expected = torch.nn.functional.pad(last_layer(batch).advantage_sums(), (0, 0, 0, 2))
    torch.testing.assert_close(masked.advantage_sums(), expected)


def test_log_probs_of_another_shape_are_refused() -> None:
    batch = head_batch(11)
    with pytest.raises(ValueError, match="got shape"):
        LastLayerProxy(batch.logits).append(batch.hidden, torch.zeros(1), batch.targets, batch.advantages)


def test_a_space_that_was_never_appended_to_says_what_it_needs() -> None:
    batch = head_batch(12)
    with pytest.raises(ValueError, match="needs one append"):
        LastLayerProxy(batch.logits).advantage_sums()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("budget", [None, 20_000, 0])
def test_coefficients_on_a_gpu_are_those_of_a_cpu(budget: int | None) -> None:
    batch = head_batch(13, tokens=900, hidden=64, vocabulary=40, dtype=torch.float32)
    found = {}
    for device in ("cpu", "cuda"):
        there = replace(
            batch,
            hidden=batch.hidden.to(device),
            head=batch.head.to(device),
            targets=batch.targets.to(device),
            advantages=batch.advantages.to(device),
        )
        space = LastLayerProxy(there.logits, RowCache(device_budget_bytes=budget))
        fill(space, there, sizes=[100] * 8)
        found[device] = estimate_credit(space, neutral_tokens=3).coefficients
        assert found[device].device.type == device
    torch.testing.assert_close(found["cuda"].cpu(), found["cpu"], rtol=0, atol=5e-5)
