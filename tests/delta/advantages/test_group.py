import math

import pytest
import torch

from delta.advantages import GroupAdvantageConfig, group_advantages


def all_judged(rewards: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(rewards, dtype=torch.bool)


def naive_advantages(
    rewards: list[list[float]], judged: list[list[bool]], *, normalize_std: bool, eps: float
) -> list[list[float]]:
    result = []
    for row, known in zip(rewards, judged, strict=True):
        values = [reward for reward, is_known in zip(row, known, strict=True) if is_known]
        mean = sum(values) / max(len(values), 1)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / max(len(values), 1))
        divisor = deviation + eps if normalize_std else 1.0
        result.append([(r - mean) / divisor if k else 0.0 for r, k in zip(row, known, strict=True)])
    return result


def test_hand_worked_group() -> None:
    # Mean 1/4, population deviation sqrt(3)/4: the right one gets sqrt(3), the wrong ones -1/sqrt(3).
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    expected = torch.tensor([[3**0.5, -(3**-0.5), -(3**-0.5), -(3**-0.5)]])
    advantages = group_advantages(rewards, all_judged(rewards), normalize_std=True)
    torch.testing.assert_close(advantages, expected, rtol=1e-5, atol=1e-5)


def test_without_std_it_is_the_distance_from_the_mean() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [2.0, 4.0, -1.0, -1.0]])
    expected = torch.tensor([[0.75, -0.25, -0.25, -0.25], [1.0, 3.0, -2.0, -2.0]])
    assert torch.equal(group_advantages(rewards, all_judged(rewards), normalize_std=False), expected)


@pytest.mark.parametrize("normalize_std", [True, False])
@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_advantages_equal_the_naive_loop(normalize_std: bool, eps: float) -> None:
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(6, 5, generator=generator)
    judged = torch.rand(6, 5, generator=generator) < 0.7
    expected = naive_advantages(rewards.tolist(), judged.tolist(), normalize_std=normalize_std, eps=eps)
    advantages = group_advantages(rewards, judged, normalize_std=normalize_std, eps=eps)
    torch.testing.assert_close(advantages, torch.tensor(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reward", [0.0, 1.0, 1780 / 1999, -0.1, 1 / 3])
@pytest.mark.parametrize("size", [1, 7, 15, 16])
@pytest.mark.parametrize("normalize_std", [True, False])
def test_equal_rewards_get_exact_zeros(reward: float, size: int, normalize_std: bool) -> None:
    rewards = torch.full((2, size), reward)
    advantages = group_advantages(rewards, all_judged(rewards), normalize_std=normalize_std)
    assert torch.equal(advantages, torch.zeros(2, size))


def test_unjudged_rollout_neither_counts_nor_gets_an_advantage() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 7.0]])
    judged = torch.tensor([[True, True, False, False]])
    expected = torch.tensor([[0.5, -0.5, 0.0, 0.0]])
    assert torch.equal(group_advantages(rewards, judged, normalize_std=False), expected)
    torch.testing.assert_close(group_advantages(rewards, judged, normalize_std=True), expected * 2, rtol=1e-5, atol=0)


def test_judged_ties_get_zeros_whatever_the_unjudged_reward() -> None:
    rewards = torch.tensor([[1780 / 1999] * 15 + [0.0]])
    judged = torch.tensor([[True] * 15 + [False]])
    assert torch.equal(group_advantages(rewards, judged, normalize_std=True), torch.zeros(1, 16))


@pytest.mark.parametrize("judged", [[[False] * 3], [[True, False, False]]], ids=["none", "one"])
def test_group_with_at_most_one_judged_rollout_gets_zeros(judged: list[list[bool]]) -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.5]])
    assert torch.equal(group_advantages(rewards, torch.tensor(judged), normalize_std=True), torch.zeros(1, 3))


@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf, 1e30])
def test_unjudged_reward_may_be_anything(junk: float) -> None:
    judged = torch.tensor([[True, True, False]])
    advantages = group_advantages(torch.tensor([[1.0, 0.0, junk]]), judged, normalize_std=True)
    assert torch.equal(advantages, group_advantages(torch.tensor([[1.0, 0.0, 0.0]]), judged, normalize_std=True))


def test_groups_do_not_influence_each_other() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0], [5.0, -5.0, 3.0]])
    together = group_advantages(rewards, all_judged(rewards), normalize_std=True)
    alone = group_advantages(rewards[:1], all_judged(rewards[:1]), normalize_std=True)
    assert torch.equal(together[:1], alone)


def test_rewards_are_not_written_to() -> None:
    rewards = torch.tensor([[1.0, 0.0, 5.0]])
    group_advantages(rewards, torch.tensor([[True, True, False]]), normalize_std=True)
    assert torch.equal(rewards, torch.tensor([[1.0, 0.0, 5.0]]))


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="got shape"):
        group_advantages(torch.ones(4), torch.ones(4, dtype=torch.bool), normalize_std=True)
    with pytest.raises(ValueError, match="got shape"):
        group_advantages(torch.ones(2, 4), torch.ones(2, 3, dtype=torch.bool), normalize_std=True)


def test_default_is_grpo() -> None:
    assert GroupAdvantageConfig().normalize_std
