import math

import pytest
import torch

from delta.importance import Level, MaskedConfig
from tests.delta.importance.batch import disagreeing_tokens, naive_ratios
from tests.objectives import old_tokens

LEVELS = pytest.mark.parametrize("level", list(Level))


@LEVELS
@pytest.mark.parametrize("bounds", [(0.5, 5.0), (0.3, 1.0), (1.0, 2.5)])
def test_weights_equal_the_naive_loop(level: Level, bounds: tuple[float, float]) -> None:
    low, high = bounds
    tokens = disagreeing_tokens(seed=1)
    # The rollout without loss has ratio 1, within rounding of a bound of 1.
    counted = tokens.loss_mask
    expected = torch.tensor(
        [ratio if low <= ratio <= high else 0.0 for ratio in naive_ratios(tokens, level)], dtype=torch.float64
    )
    assert 0 < (expected[counted] == 0).sum() < counted.sum()
    weights = MaskedConfig(level=level, low=low, high=high).weights(tokens)
    torch.testing.assert_close(weights[counted], expected[counted])


def test_hand_worked_weights() -> None:
    ratios = torch.tensor([0.49, 0.51, 4.9, 5.1])
    tokens = old_tokens(ratios.log() - 3, rollout_log_probs=[-3.0] * 4, row_lengths=[2, 2], dtype=torch.float32)
    assert MaskedConfig().weights(tokens).tolist() == pytest.approx([0.0, 0.51, 4.9, 0.0])
    # 0.49 * 0.51 is a quarter; 4.9 * 5.1 is 24.99.
    sequence = MaskedConfig(level=Level.sequence, low=0.2, high=20.0).weights(tokens)
    assert sequence.tolist() == pytest.approx([0.2499, 0.2499, 0.0, 0.0])


@LEVELS
@pytest.mark.parametrize("bounds", [(0.5, 5.0), (1.0, 1.0)])
def test_equal_probabilities_give_exact_ones(level: Level, bounds: tuple[float, float]) -> None:
    tokens = old_tokens([-0.3, -7.0, -0.1], row_lengths=[1, 2])
    assert MaskedConfig(level=level, low=bounds[0], high=bounds[1]).weights(tokens).tolist() == [1.0] * 3


@LEVELS
@pytest.mark.parametrize("learner", [-300.0, -math.inf, math.nan])
def test_extreme_ratios_do_not_count(level: Level, learner: float) -> None:
    tokens = old_tokens([learner, -0.1], rollout_log_probs=[-0.1, -300.0], row_lengths=[1, 1], dtype=torch.float32)
    assert MaskedConfig(level=level).weights(tokens).tolist() == [0.0, 0.0]


@LEVELS
def test_no_tokens_have_no_weights(level: Level) -> None:
    assert MaskedConfig(level=level).weights(old_tokens([])).shape == (0,)


def test_defaults_are_the_papers() -> None:
    config = MaskedConfig()
    assert (config.level, config.low, config.high) == (Level.token, 0.5, 5.0)


@pytest.mark.parametrize(
    "settings",
    [
        {"low": 0.0},
        {"low": -0.5},
        {"low": 1.1},
        {"low": math.nan},
        {"high": 0.9},
        {"high": math.nan},
    ],
)
def test_config_refuses_what_cannot_work(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"importance\.{next(iter(settings))}"):
        MaskedConfig(**settings)
