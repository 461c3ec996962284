import math

import pytest
import torch
from torch import Tensor

from delta.advantages import ReinforcePlusPlusConfig, whitened_advantages

BASELINES = pytest.mark.parametrize("group_baseline", [True, False])


def all_judged(rewards: Tensor) -> Tensor:
    return torch.ones_like(rewards, dtype=torch.bool)


def naive_advantages(
    rewards: list[list[float]], judged: list[list[bool]], *, group_baseline: bool, eps: float
) -> list[list[float]]:
    values: dict[tuple[int, int], float] = {}
    for n, row in enumerate(rewards):
        known = [reward for reward, is_known in zip(row, judged[n], strict=True) if is_known]
        baseline = sum(known) / len(known) if group_baseline and known else 0.0
        values |= {(n, g): reward - baseline for g, reward in enumerate(row) if judged[n][g]}
    count = max(len(values), 1)
    mean = sum(values.values()) / count
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values.values()) / count)
    return [
        [(values[n, g] - mean) / (deviation + eps) if (n, g) in values else 0.0 for g in range(len(row))]
        for n, row in enumerate(rewards)
    ]


def test_hand_worked_batch() -> None:
    # Mean 1/4, population deviation sqrt(3)/4.
    rewards = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    expected = torch.tensor([[3**0.5, -(3**-0.5)], [-(3**-0.5), -(3**-0.5)]])
    advantages = whitened_advantages(rewards, all_judged(rewards), group_baseline=False)
    torch.testing.assert_close(advantages, expected, rtol=1e-5, atol=1e-5)


def test_hand_worked_batch_with_a_group_baseline() -> None:
    # Distances from the group means 1/2, -1/2, 0, 0: deviation sqrt(1/8).
    rewards = torch.tensor([[1.0, 0.0], [3.0, 3.0]])
    advantages = whitened_advantages(rewards, all_judged(rewards), group_baseline=True)
    torch.testing.assert_close(advantages, torch.tensor([[2**0.5, -(2**0.5)], [0.0, 0.0]]), rtol=1e-5, atol=1e-5)


@BASELINES
@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_advantages_equal_the_naive_loop(group_baseline: bool, eps: float) -> None:
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(6, 5, generator=generator)
    judged = torch.rand(6, 5, generator=generator) < 0.7
    expected = naive_advantages(rewards.tolist(), judged.tolist(), group_baseline=group_baseline, eps=eps)
    advantages = whitened_advantages(rewards, judged, group_baseline=group_baseline, eps=eps)
    torch.testing.assert_close(advantages, torch.tensor(expected), rtol=1e-5, atol=1e-5)


@BASELINES
@pytest.mark.parametrize("reward", [0.0, 1.0, 1780 / 1999, -0.1, 1 / 3])
@pytest.mark.parametrize("size", [1, 7, 15])
def test_equal_rewards_get_exact_zeros(reward: float, size: int, group_baseline: bool) -> None:
    rewards = torch.full((2, size), reward)
    advantages = whitened_advantages(rewards, all_judged(rewards), group_baseline=group_baseline)
    assert torch.equal(advantages, torch.zeros(2, size))


def test_tied_group_gets_exact_zeros_with_a_group_baseline_only() -> None:
    rewards = torch.tensor([[1780 / 1999] * 15, [0.0] * 14 + [1.0]])
    with_baseline = whitened_advantages(rewards, all_judged(rewards), group_baseline=True)
    assert torch.equal(with_baseline[0], torch.zeros(15))
    without = whitened_advantages(rewards, all_judged(rewards), group_baseline=False)
    assert (without[0] > 0.5).all()


def test_tied_groups_of_different_rewards_are_told_apart_without_a_baseline_only() -> None:
    rewards = torch.tensor([[1 / 3] * 7, [1780 / 1999] * 7])
    assert torch.equal(
        whitened_advantages(rewards, all_judged(rewards), group_baseline=True), torch.zeros_like(rewards)
    )
    torch.testing.assert_close(
        whitened_advantages(rewards, all_judged(rewards), group_baseline=False),
        torch.tensor([[-1.0], [1.0]]).expand(2, 7),
        rtol=1e-4,
        atol=0,
    )


@BASELINES
@pytest.mark.parametrize("junk", [7.0, math.nan, math.inf, -math.inf, 1e30])
def test_unjudged_rollout_neither_counts_nor_gets_an_advantage(junk: float, group_baseline: bool) -> None:
    rewards = torch.tensor([[1.0, 0.0, junk], [junk, junk, junk]])
    judged = torch.tensor([[True, True, False], [False] * 3])
    advantages = whitened_advantages(rewards, judged, group_baseline=group_baseline)
    torch.testing.assert_close(advantages, torch.tensor([[1.0, -1.0, 0.0], [0.0] * 3]), rtol=1e-5, atol=0)


@BASELINES
@pytest.mark.parametrize("unjudged", [0.0, 9.0])
def test_judged_ties_get_zeros_whatever_the_unjudged_reward(unjudged: float, group_baseline: bool) -> None:
    rewards, judged = torch.tensor([[1780 / 1999] * 15 + [unjudged]]), torch.tensor([[True] * 15 + [False]])
    advantages = whitened_advantages(rewards, judged, group_baseline=group_baseline)
    assert torch.equal(advantages, torch.zeros(1, 16))


@BASELINES
@pytest.mark.parametrize("judged", [[[False] * 3], [[True, False, False]]], ids=["none", "one"])
def test_batch_with_at_most_one_judged_rollout_gets_zeros(judged: list[list[bool]], group_baseline: bool) -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.5]])
    advantages = whitened_advantages(rewards, torch.tensor(judged), group_baseline=group_baseline)
    assert torch.equal(advantages, torch.zeros(1, 3))


def test_a_lone_rollout_counts_against_the_rest_of_the_batch() -> None:
    rewards, judged = torch.tensor([[1.0, 9.0], [0.0, 0.0]]), torch.tensor([[True, False], [True, True]])
    advantages = whitened_advantages(rewards, judged, group_baseline=False)
    torch.testing.assert_close(advantages, torch.tensor([[2**0.5, 0.0], [-(2**-0.5)] * 2]), rtol=1e-5, atol=0)


@BASELINES
def test_config_hands_on_its_setting(group_baseline: bool) -> None:
    rewards, judged = torch.tensor([[1.0, 0.0], [4.0, 5.0]]), torch.tensor([[True, True], [True, True]])
    advantages = ReinforcePlusPlusConfig(group_baseline=group_baseline).advantages(rewards, judged)
    assert torch.equal(advantages, whitened_advantages(rewards, judged, group_baseline=group_baseline))
    assert rewards.tolist() == [[1.0, 0.0], [4.0, 5.0]]


def test_default_is_the_plain_variant() -> None:
    assert not ReinforcePlusPlusConfig().group_baseline


@BASELINES
def test_no_groups_have_no_advantages(group_baseline: bool) -> None:
    rewards, judged = torch.empty(0, 4), torch.empty(0, 4, dtype=torch.bool)
    assert whitened_advantages(rewards, judged, group_baseline=group_baseline).shape == (0, 4)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="got shape"):
        whitened_advantages(torch.ones(4), torch.ones(4, dtype=torch.bool), group_baseline=False)
    with pytest.raises(ValueError, match="got shape"):
        whitened_advantages(torch.ones(2, 4), torch.ones(2, 3, dtype=torch.bool), group_baseline=False)
