"""What must not matter to advantages, losses and data does not matter: order, shifts, scales, shards, padding."""

from itertools import pairwise

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from delta.advantages import group_advantages
from delta.aggregations import MiniBatch, TokenMeanConfig
from delta.data.collate import collate
from delta.data.micro_batch import pack_rows, pad_rows, response_index
from delta.data.partition import partition_rows
from delta.losses import weighted_sum
from delta.surrogates import clipped_surrogate
from tests.factories import make_group, make_prompt

SEEDS = st.integers(0, 2**31 - 1)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- advantages ---


@st.composite
def rewards_and_judged(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Rewards as verifiers give them: thirds, tenths and the like, often tied, none so close that rounding decides."""
    groups, size = draw(st.integers(1, 4)), draw(st.integers(1, 16))
    values = st.integers(-200, 200).map(lambda step: step / 100)
    rewards = draw(st.lists(st.lists(values, min_size=size, max_size=size), min_size=groups, max_size=groups))
    judged = draw(st.lists(st.lists(st.booleans(), min_size=size, max_size=size), min_size=groups, max_size=groups))
    return torch.tensor(rewards), torch.tensor(judged)


@given(rewards_and_judged(), st.booleans())
def test_advantages_of_a_group_sum_to_zero(case: tuple[Tensor, Tensor], normalize_std: bool) -> None:
    rewards, judged = case
    sums = group_advantages(rewards, judged, normalize_std=normalize_std).sum(dim=-1)
    torch.testing.assert_close(sums, torch.zeros_like(sums), rtol=0, atol=2e-3)


@given(rewards_and_judged(), st.integers(-30, 30))
def test_advantages_ignore_a_shift_of_the_rewards(case: tuple[Tensor, Tensor], shift: int) -> None:
    rewards, judged = case
    expected = group_advantages(rewards, judged, normalize_std=True)
    shifted = group_advantages(rewards + shift / 10, judged, normalize_std=True)
    # Ties are compared in float32, where a shift can split what was equal only if it rounds differently: it does not.
    torch.testing.assert_close(shifted, expected, rtol=0, atol=5e-3)


@given(rewards_and_judged(), st.floats(0.5, 20))
def test_normalised_advantages_ignore_the_scale_of_the_rewards(case: tuple[Tensor, Tensor], scale: float) -> None:
    rewards, judged = case
    expected = group_advantages(rewards, judged, normalize_std=True, eps=0.0)
    torch.testing.assert_close(
        group_advantages(rewards * scale, judged, normalize_std=True, eps=0.0), expected, rtol=0, atol=2e-3
    )


@given(st.floats(-1e6, 1e6, width=32), st.integers(1, 33), st.booleans())
def test_equal_rewards_give_exact_zeros(reward: float, size: int, normalize_std: bool) -> None:
    rewards = torch.full((1, size), reward)
    advantages = group_advantages(rewards, torch.ones(1, size, dtype=torch.bool), normalize_std=normalize_std)
    assert torch.equal(advantages, torch.zeros(1, size))


@given(rewards_and_judged(), SEEDS)
def test_advantages_permute_with_the_rollouts(case: tuple[Tensor, Tensor], seed: int) -> None:
    rewards, judged = case
    order = torch.randperm(rewards.shape[1], generator=seeded(seed))
    expected = group_advantages(rewards, judged, normalize_std=True)[:, order]
    permuted = group_advantages(rewards[:, order], judged[:, order], normalize_std=True)
    torch.testing.assert_close(permuted, expected, rtol=0, atol=2e-3)


@given(rewards_and_judged(), st.floats(allow_nan=True, allow_infinity=True, width=32), st.booleans())
def test_unjudged_rollouts_get_zero_and_do_not_influence_the_others(
    case: tuple[Tensor, Tensor], junk: float, normalize_std: bool
) -> None:
    rewards, judged = case
    advantages = group_advantages(rewards, judged, normalize_std=normalize_std)
    assert torch.equal(advantages[~judged], torch.zeros(int((~judged).sum())))
    changed = group_advantages(rewards.masked_fill(~judged, junk), judged, normalize_std=normalize_std)
    assert torch.equal(changed, advantages)
    for row, known, expected in zip(rewards, judged, advantages, strict=True):
        if known.any():
            kept = row[known].unsqueeze(0)
            alone = group_advantages(kept, torch.ones_like(kept, dtype=torch.bool), normalize_std=normalize_std)
            torch.testing.assert_close(alone[0], expected[known], rtol=0, atol=2e-3)


# --- loss and data ---


@given(st.integers(1, 60), SEEDS, st.lists(st.integers(0, 60), max_size=5))
def test_loss_and_gradient_of_a_batch_are_the_sum_over_shards(count: int, seed: int, cuts: list[int]) -> None:
    generator = seeded(seed)
    old = -torch.rand(count, generator=generator, dtype=torch.float64)
    log_probs = old + torch.randn(count, generator=generator, dtype=torch.float64)
    advantages = torch.randn(count, generator=generator, dtype=torch.float64)
    coefficients = torch.rand(count, generator=generator, dtype=torch.float64)

    def loss(leaf: Tensor, part: slice) -> Tensor:
        terms = clipped_surrogate(
            leaf[part], old[part], advantages[part], epsilon_low=0.2, epsilon_high=0.28, dual_clip=3.0
        )
        row_tokens = torch.ones(len(terms.objective), dtype=torch.int64)
        weights = TokenMeanConfig().weights(row_tokens, MiniBatch(tokens=count, rows=count))
        return -weighted_sum(terms.objective, coefficients[part], weights)

    whole = log_probs.clone().requires_grad_()
    expected = loss(whole, slice(None))
    expected.backward()
    sharded = log_probs.clone().requires_grad_()
    bounds = sorted([0, count, *(min(cut, count) for cut in cuts)])
    shares = [loss(sharded, slice(start, end)) for start, end in pairwise(bounds)]
    for share in shares:
        share.backward()
    torch.testing.assert_close(torch.stack(shares).sum(), expected)
    torch.testing.assert_close(sharded.grad, whole.grad)


@st.composite
def partition_cases(draw: st.DrawFn) -> tuple[list[int], int, int, int, int]:
    updates, group_size = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    groups = updates * draw(st.integers(1, 5))
    lengths = draw(st.lists(st.integers(1, 300), min_size=groups * group_size, max_size=groups * group_size))
    return lengths, updates, group_size, draw(st.integers(1, 9)), draw(st.integers(1, 700))


@given(partition_cases(), st.booleans())
def test_any_partition_keeps_its_promises(case: tuple[list[int], int, int, int, int], packed: bool) -> None:
    lengths, updates, group_size, ranks, budget = case
    partition = partition_rows(
        np.array(lengths, dtype=np.int64),
        updates=updates,
        group_size=group_size,
        ranks=ranks,
        token_budget=budget,
        packed=packed,
    )
    assert len(partition.micro_batches) == updates
    per_update = len(lengths) // updates
    for number, update in enumerate(partition.micro_batches):
        rows = sorted(row for rank in update for micro_batch in rank for row in micro_batch)
        assert rows == list(range(number * per_update, (number + 1) * per_update))
        assert len(update) == ranks
        assert len({len(rank) for rank in update}) == 1
        if packed:
            assert all(any(side_by_side) for side_by_side in zip(*update, strict=True)), "a round without a row"
        else:
            shares = [sum(len(micro_batch) for micro_batch in rank) for rank in update]
            assert max(shares) - min(shares) <= 1
        for rank in update:
            for micro_batch in rank:
                padded = len(micro_batch) * max((lengths[row] for row in micro_batch), default=0)
                computed = sum(lengths[row] for row in micro_batch) if packed else padded
                assert computed <= budget or len(micro_batch) == 1


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=6),
    st.integers(1, 4),
    st.integers(1, 40),
    st.booleans(),
)
def test_any_layout_in_any_partition_delivers_every_response_token_once(
    shapes: list[tuple[int, int, int]], ranks: int, budget: int, packed: bool
) -> None:
    fresh = iter(range(1, 10_000))  # every token is different, so each is traced through the layout
    groups = []
    for number, (prompt, *responses) in enumerate(shapes):
        prompt_ids = [next(fresh) for _ in range(prompt)]
        response_ids = [[next(fresh) for _ in range(length)] for length in responses]
        groups.append(make_group([1.0, 0.0], group=number, prompt=make_prompt(prompt_ids), responses=response_ids))
    batch = collate(groups, torch.zeros(len(groups), 2))
    before = {
        int(token): previous
        for group in groups
        for rollout in group.rollouts
        for previous, token in pairwise([group.prompt.token_ids[-1], *map(int, rollout.token_ids)])
    }
    expected = [int(token) for group in groups for rollout in group.rollouts for token in rollout.token_ids]
    seen = np.zeros(len(expected), dtype=np.int64)
    partition = partition_rows(
        batch.row_lengths, updates=1, group_size=2, ranks=ranks, token_budget=budget, packed=packed
    )
    for rank in partition.micro_batches[0]:
        for rows in rank:
            micro_batch = (pack_rows if packed else pad_rows)(batch, rows)
            places = response_index(batch, rows)
            targets = micro_batch.targets.tolist()
            assert targets == [expected[place] for place in places]
            # Each token was counted on from the one before it, but for the first of a response after its prompt.
            predicting = micro_batch.token_ids.flatten()[micro_batch.predictors].tolist()
            assert predicting == [before[target] for target in targets]
            np.add.at(seen, places, 1)
    assert (seen == 1).all()
