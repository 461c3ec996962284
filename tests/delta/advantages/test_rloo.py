import math

import pytest
import torch
from torch import Tensor

from delta.advantages import RlooConfig, leave_one_out_advantages


def all_judged(rewards: Tensor) -> Tensor:
    return torch.ones_like(rewards, dtype=torch.bool)


def naive_advantages(rewards: list[list[float]], judged: list[list[bool]]) -> list[list[float]]:
    """Each rollout against the mean of the other judged ones, which is formed anew for each."""
    result = []
    for row, known in zip(rewards, judged, strict=True):
        advantages = []
        for place, reward in enumerate(row):
            others = [row[other] for other in range(len(row)) if other != place and known[other]]
            advantages.append(reward - sum(others) / len(others) if known[place] and others else 0.0)
        result.append(advantages)
    return result


def test_hand_worked_group() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [4.0, 1.0, 1.0, 0.0]])
    expected = torch.tensor([[1.0, -1 / 3, -1 / 3, -1 / 3], [10 / 3, -2 / 3, -2 / 3, -2.0]])
    torch.testing.assert_close(leave_one_out_advantages(rewards, all_judged(rewards)), expected)


def test_advantages_equal_the_naive_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(8, 5, generator=generator)
    judged = torch.rand(8, 5, generator=generator) < 0.6
    expected = torch.tensor(naive_advantages(rewards.tolist(), judged.tolist()))
    torch.testing.assert_close(leave_one_out_advantages(rewards, judged), expected, rtol=1e-5, atol=1e-6)


def test_two_rollouts_are_each_others_baseline() -> None:
    rewards = torch.tensor([[1.0, 0.25]])
    assert leave_one_out_advantages(rewards, all_judged(rewards)).tolist() == [[0.75, -0.75]]


@pytest.mark.parametrize("reward", [0.0, 1.0, 1780 / 1999, -0.1, 1 / 3])
@pytest.mark.parametrize("size", [1, 7, 15, 16])
def test_equal_rewards_get_exact_zeros(reward: float, size: int) -> None:
    rewards = torch.full((2, size), reward)
    assert torch.equal(leave_one_out_advantages(rewards, all_judged(rewards)), torch.zeros(2, size))


@pytest.mark.parametrize("junk", [7.0, math.nan, math.inf, -math.inf, 1e30])
def test_unjudged_rollout_neither_counts_nor_gets_an_advantage(junk: float) -> None:
    rewards, judged = torch.tensor([[1.0, 0.0, junk, 0.5]]), torch.tensor([[True, True, False, True]])
    torch.testing.assert_close(leave_one_out_advantages(rewards, judged), torch.tensor([[0.75, -0.75, 0.0, 0.0]]))


@pytest.mark.parametrize("unjudged", [0.0, 9.0])
def test_judged_ties_get_zeros_whatever_the_unjudged_reward(unjudged: float) -> None:
    rewards, judged = torch.tensor([[1780 / 1999] * 15 + [unjudged]]), torch.tensor([[True] * 15 + [False]])
    assert torch.equal(leave_one_out_advantages(rewards, judged), torch.zeros(1, 16))


@pytest.mark.parametrize("judged", [[[False] * 3], [[True, False, False]]], ids=["none", "one"])
def test_rollout_without_a_judged_sibling_gets_zero(judged: list[list[bool]]) -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.5]])
    assert torch.equal(leave_one_out_advantages(rewards, torch.tensor(judged)), torch.zeros(1, 3))


def test_groups_do_not_influence_each_other() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0], [5.0, -5.0, 3.0]])
    together = leave_one_out_advantages(rewards, all_judged(rewards))
    assert torch.equal(together[:1], leave_one_out_advantages(rewards[:1], all_judged(rewards[:1])))


def test_config_is_the_function() -> None:
    rewards, judged = torch.tensor([[1.0, 0.0, 5.0]]), torch.tensor([[True, True, False]])
    assert torch.equal(RlooConfig().advantages(rewards, judged), leave_one_out_advantages(rewards, judged))
    assert rewards.tolist() == [[1.0, 0.0, 5.0]]


def test_no_groups_have_no_advantages() -> None:
    assert leave_one_out_advantages(torch.empty(0, 4), torch.empty(0, 4, dtype=torch.bool)).shape == (0, 4)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="got shape"):
        leave_one_out_advantages(torch.ones(4), torch.ones(4, dtype=torch.bool))
    with pytest.raises(ValueError, match="got shape"):
        leave_one_out_advantages(torch.ones(2, 4), torch.ones(2, 3, dtype=torch.bool))
