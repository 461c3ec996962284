import math

import pytest
import torch
from torch import Tensor

from delta.rewards.overlong import ShapingConfig, overlong_penalty

LIMIT, BUFFER = 100, 20


def naive_penalty(length: int, *, limit: int, buffer: int, penalty: float) -> float:
    """The three cases of DAPO's soft overlong punishment, scaled."""
    if buffer == 0 or length <= limit - buffer:
        return 0.0
    if length <= limit:
        return penalty * ((limit - buffer) - length) / buffer
    return -penalty


def shaped(*lengths: int, penalty: float = 1.0) -> list[float]:
    return overlong_penalty(torch.tensor([lengths]), limit=LIMIT, buffer=BUFFER, penalty=penalty)[0].tolist()


def test_hand_worked_lengths() -> None:
    assert shaped(1, 80, 85, 90, 99, 100) == pytest.approx([0.0, 0.0, -0.25, -0.5, -0.95, -1.0])


def test_penalty_scales() -> None:
    assert shaped(80, 90, 100, penalty=3.0) == pytest.approx([0.0, -1.5, -3.0])


def test_nothing_is_worse_than_the_limit() -> None:
    assert shaped(101, 5000) == [-1.0, -1.0]


@pytest.mark.parametrize("buffer", [0, 1, 7, 100])
@pytest.mark.parametrize("penalty", [0.0, 1.0, 0.5])
def test_penalties_equal_the_naive_loop(buffer: int, penalty: float) -> None:
    lengths = torch.arange(130).reshape(13, 10)
    expected = [
        [naive_penalty(length, limit=LIMIT, buffer=buffer, penalty=penalty) for length in row]
        for row in lengths.tolist()
    ]
    result = overlong_penalty(lengths, limit=LIMIT, buffer=buffer, penalty=penalty)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, torch.tensor(expected))


def test_no_buffer_no_penalty_not_even_at_the_limit() -> None:
    result = overlong_penalty(torch.tensor([[1, LIMIT]]), limit=LIMIT, buffer=0, penalty=1.0)
    assert torch.equal(result, torch.zeros(1, 2))


def test_no_groups_have_no_penalties() -> None:
    assert overlong_penalty(torch.empty(0, 4), limit=LIMIT, buffer=BUFFER, penalty=1.0).shape == (0, 4)


@pytest.mark.parametrize("buffer", [0, BUFFER])
@pytest.mark.parametrize("lengths", [torch.tensor([1, 2]), torch.ones(1, 2, 3)])
def test_wrong_shapes_are_refused(lengths: Tensor, buffer: int) -> None:
    with pytest.raises(ValueError, match="got shape"):
        overlong_penalty(lengths, limit=LIMIT, buffer=buffer, penalty=1.0)


def test_shaping_is_off_by_default() -> None:
    assert (ShapingConfig().overlong_buffer, ShapingConfig().overlong_penalty) == (0, 1.0)


@pytest.mark.parametrize(
    "settings", [{"overlong_buffer": -1}, {"overlong_penalty": -0.5}, {"overlong_penalty": math.nan}]
)
def test_config_refuses_what_cannot_work(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"shaping\.{next(iter(settings))}"):
        ShapingConfig(**settings)
