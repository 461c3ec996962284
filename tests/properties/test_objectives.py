"""What every objective has in common: policy gradients at ratio 1, order, scales, shards; advantages; importance."""

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from delta.advantages import ReinforcePlusPlusConfig, RlooConfig, leave_one_out_advantages, whitened_advantages
from delta.aggregations import (
    AggregationConfig,
    ConstantLengthConfig,
    MiniBatch,
    SequenceMeanConfig,
    SequenceSumConfig,
    TokenMeanConfig,
)
from delta.importance import Level, MaskedConfig, TruncatedConfig
from delta.losses import KlEstimator, kl_estimate, kl_penalty, weighted_sum
from delta.rewards.parts import overlong
from delta.surrogates import CispoConfig, ClippedConfig, GspoConfig, SapoConfig, SurrogateConfig
from delta.tokens import OldTokens, join
from delta.types import Outcome, Sample, Verdict
from tests.objectives import of_rows, old_tokens

SEEDS = st.integers(0, 2**31 - 1)

SURROGATES: dict[str, SurrogateConfig] = {
    "clipped": ClippedConfig(dual_clip=3.0),
    "ppo": ClippedConfig(epsilon_high=0.2, dual_clip=float("inf")),
    "gspo": GspoConfig(epsilon_low=0.1, epsilon_high=0.2),
    "sapo": SapoConfig(),
    "cispo": CispoConfig(epsilon_high=1.0),
}
AGGREGATIONS: dict[str, AggregationConfig] = {
    "token_mean": TokenMeanConfig(),
    "sequence_mean": SequenceMeanConfig(),
    "sequence_sum": SequenceSumConfig(),
    "constant_length": ConstantLengthConfig(length=7),
}
CORRECTIONS = {
    "truncated": TruncatedConfig(),
    "truncated_sequence": TruncatedConfig(level=Level.sequence, cap=1.5),
    "masked": MaskedConfig(),
    "masked_sequence": MaskedConfig(level=Level.sequence, low=0.2, high=3.0),
}

every_surrogate = pytest.mark.parametrize("surrogate", SURROGATES.values(), ids=SURROGATES)
every_aggregation = pytest.mark.parametrize("aggregation", AGGREGATIONS.values(), ids=AGGREGATIONS)
every_correction = pytest.mark.parametrize("correction", CORRECTIONS.values(), ids=CORRECTIONS)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


Case = tuple[Tensor, OldTokens]


@st.composite
def batches(draw: st.DrawFn) -> Case:
    """Rows of 1 to 6 tokens, some off the loss mask, advantages of every sign; log-probabilities now and before."""
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=6))
    generator = seeded(draw(SEEDS))
    count = sum(lengths)
    spread = draw(st.sampled_from([0.01, 0.3, 2.0]))
    old, moved, engine, entropy = torch.randn(4, count, generator=generator, dtype=torch.float64)
    old = -old.abs() - 0.1
    of_rows = torch.randn(len(lengths), generator=generator, dtype=torch.float64)
    signs = draw(st.lists(st.sampled_from([-1, 0, 1]), min_size=len(lengths), max_size=len(lengths)))
    advantages = of_rows.abs() * torch.tensor(signs)
    tokens = old_tokens(
        old,
        advantages=torch.repeat_interleave(advantages, torch.tensor(lengths)),
        row_lengths=lengths,
        loss_mask=torch.rand(count, generator=generator) < draw(st.sampled_from([0.5, 1.0])),
        rollout_log_probs=old + spread * engine,
        entropy=entropy.abs(),
    )
    return old + spread * moved, tokens


def objective_and_gradient(surrogate: SurrogateConfig, log_probs: Tensor, tokens: OldTokens) -> tuple[Tensor, Tensor]:
    leaf = log_probs.clone().requires_grad_()
    objective = surrogate.terms(leaf, tokens).objective
    objective.sum().backward()
    return objective.detach(), leaf.grad


# --- surrogates ---


@every_surrogate
@given(batches())
def test_before_the_first_step_the_gradient_is_the_policy_gradient(surrogate: SurrogateConfig, case: Case) -> None:
    _, tokens = case
    objective, gradient = objective_and_gradient(surrogate, tokens.log_probs, tokens)
    torch.testing.assert_close(gradient, tokens.advantages)
    if isinstance(surrogate, ClippedConfig | GspoConfig):
        torch.testing.assert_close(objective, tokens.advantages)
    assert not surrogate.terms(tokens.log_probs, tokens).clipped.any()


@every_surrogate
@given(batches(), SEEDS)
def test_terms_permute_with_the_rollouts_and_with_the_tokens_inside(
    surrogate: SurrogateConfig, case: Case, seed: int
) -> None:
    log_probs, tokens = case
    generator = seeded(seed)
    rows = torch.randperm(int(tokens.rows[-1]) + 1, generator=generator).tolist()
    places = [tokens.rows.eq(row).nonzero().flatten() for row in rows]
    order = torch.cat([place[torch.randperm(len(place), generator=generator)] for place in places])
    permuted = old_tokens(
        tokens.log_probs[order],
        advantages=tokens.advantages[order],
        row_lengths=[len(place) for place in places],
        loss_mask=tokens.loss_mask[order],
    )
    objective, gradient = objective_and_gradient(surrogate, log_probs, tokens)
    permuted_objective, permuted_gradient = objective_and_gradient(surrogate, log_probs[order], permuted)
    torch.testing.assert_close(permuted_objective, objective[order])
    torch.testing.assert_close(permuted_gradient, gradient[order])
    expected = surrogate.terms(log_probs, tokens).clipped[order]
    assert torch.equal(surrogate.terms(log_probs[order], permuted).clipped, expected)


@every_surrogate
@given(batches(), st.floats(1e-3, 1e3))
def test_a_factor_of_the_advantages_is_a_factor_of_objective_and_gradient(
    surrogate: SurrogateConfig, case: Case, factor: float
) -> None:
    log_probs, tokens = case
    scaled = replace(tokens, advantages=tokens.advantages * factor)
    objective, gradient = objective_and_gradient(surrogate, log_probs, tokens)
    scaled_objective, scaled_gradient = objective_and_gradient(surrogate, log_probs, scaled)
    torch.testing.assert_close(scaled_objective, objective * factor)
    torch.testing.assert_close(scaled_gradient, gradient * factor)
    assert torch.equal(surrogate.terms(log_probs, scaled).clipped, surrogate.terms(log_probs, tokens).clipped)


@every_surrogate
@given(batches())
def test_rollouts_without_advantage_have_no_objective_and_no_gradient(surrogate: SurrogateConfig, case: Case) -> None:
    log_probs, tokens = case
    neutral = tokens.advantages == 0
    objective, gradient = objective_and_gradient(surrogate, log_probs, tokens)
    assert (objective[neutral] == 0).all()
    assert (gradient[neutral] == 0).all()
    assert not surrogate.terms(log_probs, tokens).clipped[neutral].any()


@every_surrogate
@given(batches())
def test_no_gradient_pushes_against_the_advantage(surrogate: SurrogateConfig, case: Case) -> None:
    log_probs, tokens = case
    _, gradient = objective_and_gradient(surrogate, log_probs, tokens)
    assert (gradient * tokens.advantages >= 0).all()


@every_surrogate
@given(batches(), st.sampled_from([-1e4, -300.0, 300.0, 1e4]))
def test_extreme_log_ratios_stay_finite_in_float32(surrogate: SurrogateConfig, case: Case, log_ratio: float) -> None:
    _, tokens = case
    before = old_tokens(
        torch.full_like(tokens.log_probs, min(-log_ratio, 0.0)),
        advantages=tokens.advantages,
        row_lengths=torch.bincount(tokens.rows).tolist(),
        loss_mask=tokens.loss_mask,
        dtype=torch.float32,
    )
    objective, gradient = objective_and_gradient(
        surrogate, torch.full_like(before.log_probs, min(log_ratio, 0.0)), before
    )
    assert torch.isfinite(objective).all()
    assert torch.isfinite(gradient).all()


# --- loss ---


@every_aggregation
@every_surrogate
@given(batches(), SEEDS, st.integers(1, 4), st.sampled_from([None, *CORRECTIONS]))
def test_loss_and_gradient_of_a_batch_are_the_sum_over_any_shards_of_its_rollouts(
    surrogate: SurrogateConfig,
    aggregation: AggregationConfig,
    case: Case,
    seed: int,
    shards: int,
    correction: str | None,
) -> None:
    log_probs, tokens = case
    generator = seeded(seed)
    credit = torch.rand(len(log_probs), generator=generator, dtype=torch.float64) * tokens.loss_mask
    mini_batch = MiniBatch(tokens=int(tokens.loss_mask.sum()), rows=tokens.loss_rows)

    def loss(leaf: Tensor, part: OldTokens, chosen: Tensor) -> Tensor:
        return -weighted_sum(
            surrogate.terms(leaf[chosen], part).objective,
            credit[chosen],
            None if correction is None else CORRECTIONS[correction].weights(part),
            aggregation.weights(part.row_tokens, mini_batch),
        )

    whole = log_probs.clone().requires_grad_()
    expected = loss(whole, tokens, torch.ones_like(tokens.loss_mask))
    expected.backward()
    owner = torch.randint(shards, (int(tokens.rows[-1]) + 1,), generator=generator)
    sharded = log_probs.clone().requires_grad_()
    shares = [loss(sharded, *of_rows(tokens, owner.eq(shard).nonzero().flatten().tolist())) for shard in range(shards)]
    torch.stack(shares).sum().backward()
    torch.testing.assert_close(torch.stack(shares).sum(), expected)
    torch.testing.assert_close(sharded.grad, whole.grad)


@every_aggregation
@given(batches())
def test_aggregated_ones_are_the_mean_over_what_the_aggregation_counts(
    aggregation: AggregationConfig, case: Case
) -> None:
    _, tokens = case
    assume(tokens.loss_mask.any())
    mini_batch = MiniBatch(tokens=int(tokens.loss_mask.sum()), rows=tokens.loss_rows)
    total = weighted_sum(tokens.loss_mask.double(), aggregation.weights(tokens.row_tokens, mini_batch)).item()
    mean_length = mini_batch.tokens / mini_batch.rows
    expected = {"sequence_sum": mean_length, "constant_length": mean_length / 7}
    name = next(name for name, config in AGGREGATIONS.items() if config is aggregation)
    assert total == pytest.approx(expected.get(name, 1.0), rel=1e-5)


@given(batches(), st.integers(0, 6))
def test_parts_join_to_the_whole(case: Case, cut: int) -> None:
    _, tokens = case
    rows = int(tokens.rows[-1]) + 1
    first, _ = of_rows(tokens, range(min(cut, rows)))
    second, _ = of_rows(tokens, range(min(cut, rows), rows))
    joined = join([first, second])
    for name in ("rows", "places", "advantages", "loss_mask", "rollout_log_probs", "log_probs", "entropy"):
        assert torch.equal(getattr(joined, name), getattr(tokens, name))


@given(batches(), st.sampled_from(list(KlEstimator)))
def test_divergence_is_nought_for_equal_policies_and_pulls_towards_the_reference(
    case: Case, estimator: KlEstimator
) -> None:
    log_probs, tokens = case
    same = kl_estimate(log_probs, log_probs, estimator=estimator)
    assert torch.equal(same, torch.zeros_like(same))
    leaf = log_probs.clone().requires_grad_()
    penalty = kl_penalty(leaf, tokens.log_probs, estimator=estimator)
    if estimator is not KlEstimator.k1:  # whose pull is in the mean over the policy's tokens only
        penalty.sum().backward()
        assert (penalty >= -1e-15).all()
        assert (leaf.grad * (log_probs - tokens.log_probs) >= 0).all()


# --- advantages ---


@st.composite
def rewards_and_judged(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Rewards in hundredths, often tied, none so close that rounding decides; float64, so that ties stay exact."""
    groups, size = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    values = st.sampled_from([0, 0, 100, 100, -50, 37, 38]).map(lambda step: step / 100)
    rewards = draw(st.lists(st.lists(values, min_size=size, max_size=size), min_size=groups, max_size=groups))
    judged = draw(st.lists(st.lists(st.booleans(), min_size=size, max_size=size), min_size=groups, max_size=groups))
    return torch.tensor(rewards, dtype=torch.float64), torch.tensor(judged) | draw(st.booleans())


Rewards = tuple[Tensor, Tensor]
ADVANTAGES = {
    "rloo": RlooConfig(),
    "reinforce_plus_plus": ReinforcePlusPlusConfig(),
    "reinforce_plus_plus_baseline": ReinforcePlusPlusConfig(group_baseline=True),
}
every_advantage = pytest.mark.parametrize("advantage", ADVANTAGES.values(), ids=ADVANTAGES)


def close(value: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)


@every_advantage
@given(rewards_and_judged(), st.integers(-8, 8))
def test_advantages_ignore_a_shift_of_the_rewards(advantage, case: Rewards, shift: int) -> None:
    rewards, judged = case
    close(advantage.advantages(rewards + shift / 4, judged), advantage.advantages(rewards, judged))


@every_advantage
@given(rewards_and_judged(), SEEDS)
def test_advantages_permute_with_rollouts_and_groups(advantage, case: Rewards, seed: int) -> None:
    rewards, judged = case
    generator = seeded(seed)
    groups = torch.randperm(rewards.shape[0], generator=generator)
    members = torch.randperm(rewards.shape[1], generator=generator)
    expected = advantage.advantages(rewards, judged)[groups][:, members]
    close(advantage.advantages(rewards[groups][:, members], judged[groups][:, members]), expected)


@every_advantage
@given(rewards_and_judged(), st.floats(allow_nan=True, allow_infinity=True, width=32))
def test_unjudged_rollouts_get_zero_whatever_their_reward(advantage, case: Rewards, junk: float) -> None:
    rewards, judged = case
    advantages = advantage.advantages(rewards, judged)
    assert torch.equal(advantages[~judged], torch.zeros(int((~judged).sum()), dtype=torch.float64))
    assert torch.equal(advantage.advantages(rewards.masked_fill(~judged, junk), judged), advantages)


@every_advantage
@given(st.floats(-1e6, 1e6, width=32), st.integers(1, 4), st.integers(1, 17))
def test_equal_rewards_give_exact_zeros(advantage, reward: float, groups: int, size: int) -> None:
    rewards = torch.full((groups, size), reward)
    advantages = advantage.advantages(rewards, torch.ones(groups, size, dtype=torch.bool))
    assert torch.equal(advantages, torch.zeros(groups, size))


@given(rewards_and_judged(), st.floats(0.01, 100.0))
def test_leave_one_out_advantages_sum_to_zero_and_scale_with_the_rewards(case: Rewards, factor: float) -> None:
    rewards, judged = case
    advantages = leave_one_out_advantages(rewards, judged)
    close(advantages.sum(dim=-1), torch.zeros(len(rewards), dtype=torch.float64))
    close(leave_one_out_advantages(rewards * factor, judged), advantages * factor)


@given(rewards_and_judged(), st.booleans())
def test_whitened_advantages_have_mean_zero_and_deviation_one(case: Rewards, group_baseline: bool) -> None:
    rewards, judged = case
    advantages = whitened_advantages(rewards, judged, group_baseline=group_baseline, eps=0.0)
    assume(torch.isfinite(advantages).all() and (advantages != 0).any())
    values = advantages[judged]
    close(values.mean(), torch.tensor(0.0, dtype=torch.float64))
    close(values.std(correction=0), torch.tensor(1.0, dtype=torch.float64))


# --- rewards ---


@given(st.lists(st.integers(0, 200), min_size=2, max_size=20), st.integers(1, 150), st.data())
def test_longer_responses_never_lose_less_and_none_more_than_one(lengths: list[int], limit: int, data) -> None:
    buffer = data.draw(st.integers(1, limit))
    verdict = Verdict(Outcome.correct, 1.0)
    losses = [
        overlong(Sample("", "", tokens=length, max_tokens=limit), verdict, buffer=buffer) for length in sorted(lengths)
    ]
    assert losses == sorted(losses, reverse=True)
    assert all(-1 <= loss <= 0 for loss in losses)


# --- importance ---


@every_correction
@given(batches(), st.sampled_from([1.0, 5.0, 100.0]))
def test_importance_weights_keep_their_bounds(correction, case: Case, scale: float) -> None:
    _, tokens = case
    moved = tokens.log_probs + scale * (tokens.rollout_log_probs - tokens.log_probs)
    weights = correction.weights(replace(tokens, rollout_log_probs=moved))
    assert weights.shape == tokens.rows.shape
    if isinstance(correction, TruncatedConfig):
        assert ((weights >= 0) & (weights <= correction.cap * (1 + 1e-12))).all()
    else:
        inside = (weights >= correction.low * (1 - 1e-12)) & (weights <= correction.high * (1 + 1e-12))
        assert ((weights == 0) | inside).all()


@every_correction
@given(batches())
def test_importance_weights_are_one_for_equal_probabilities(correction, case: Case) -> None:
    _, tokens = case
    weights = correction.weights(replace(tokens, rollout_log_probs=tokens.log_probs))
    assert torch.equal(weights, torch.ones_like(weights))


@every_correction
@given(batches())
def test_rollouts_share_one_weight_where_the_whole_sequence_counts(correction, case: Case) -> None:
    _, tokens = case
    weights = correction.weights(tokens)
    if correction.level is Level.sequence:
        for row in range(int(tokens.rows[-1]) + 1):
            assert len(weights[tokens.rows == row].unique()) == 1
    else:
        alone = replace(tokens, rows=torch.arange(len(tokens.rows)))
        assert torch.equal(correction.weights(alone), weights)
