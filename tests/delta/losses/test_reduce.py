from itertools import pairwise

import torch

from delta.losses import weighted_token_mean


def test_hand_worked_mean() -> None:
    # -(0.5 * 2 + 1.5 * -4) / 2
    loss = weighted_token_mean(torch.tensor([2.0, -4.0]), torch.tensor([0.5, 1.5]), tokens=2)
    assert loss.shape == ()
    assert loss.item() == 2.5


def test_coefficients_of_one_give_the_token_mean() -> None:
    objective = torch.randn(10, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(weighted_token_mean(objective, torch.ones(10), tokens=10), -objective.mean())


def test_shards_add_up_to_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    objective = torch.randn(30, generator=generator, dtype=torch.float64)
    coefficients = torch.rand(30, generator=generator, dtype=torch.float64)
    whole = weighted_token_mean(objective, coefficients, tokens=30)
    cuts = [0, 3, 3, 17, 30]  # one shard is empty
    shares = [
        weighted_token_mean(objective[start:end], coefficients[start:end], tokens=30) for start, end in pairwise(cuts)
    ]
    torch.testing.assert_close(torch.stack(shares).sum(), whole)


def test_empty_share_is_zero_and_can_be_differentiated() -> None:
    objective = torch.empty(0, requires_grad=True)
    loss = weighted_token_mean(objective, torch.empty(0), tokens=5)
    loss.backward()
    assert loss.item() == 0.0
    assert objective.grad is not None


def test_gradient_is_the_coefficient_over_the_tokens() -> None:
    objective = torch.ones(3, requires_grad=True)
    weighted_token_mean(objective, torch.tensor([0.5, 1.0, 1.5]), tokens=12).backward()
    torch.testing.assert_close(objective.grad, torch.tensor([-0.5, -1.0, -1.5]) / 12)


def test_token_of_coefficient_zero_carries_no_loss() -> None:
    objective = torch.tensor([1.0, 50.0], requires_grad=True)
    loss = weighted_token_mean(objective, torch.tensor([1.0, 0.0]), tokens=1)
    loss.backward()
    assert loss.item() == -1.0
    assert objective.grad.tolist() == [-1.0, 0.0]
