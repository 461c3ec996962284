import math

import pytest
import torch

from delta.importance import Level, TruncatedConfig
from tests.delta.importance.batch import disagreeing_tokens, naive_ratios
from tests.objectives import old_tokens

LEVELS = pytest.mark.parametrize("level", list(Level))


@LEVELS
@pytest.mark.parametrize("cap", [1.0, 1.3, 5.0])
def test_weights_equal_the_naive_loop(level: Level, cap: float) -> None:
    tokens = disagreeing_tokens()
    expected = torch.tensor([min(ratio, cap) for ratio in naive_ratios(tokens, level)], dtype=torch.float64)
    assert len(expected.unique()) > 2
    assert expected.max() == cap
    torch.testing.assert_close(TruncatedConfig(level=level, cap=cap).weights(tokens), expected)


def test_hand_worked_weights() -> None:
    # Learner over engine 1/2 and 8 in one rollout, 3/2 in the other.
    ratios = torch.tensor([0.5, 8.0, 1.5])
    tokens = old_tokens(ratios.log() - 3, rollout_log_probs=[-3.0] * 3, row_lengths=[2, 1], dtype=torch.float32)
    assert TruncatedConfig(level=Level.token).weights(tokens).tolist() == pytest.approx([0.5, 2.0, 1.5])
    sequence = TruncatedConfig(level=Level.sequence, cap=3.0).weights(tokens)
    assert sequence.tolist() == pytest.approx([3.0, 3.0, 1.5])


@LEVELS
def test_equal_probabilities_give_exact_ones(level: Level) -> None:
    tokens = old_tokens([-0.3, -7.0, -0.1], row_lengths=[1, 2])
    assert TruncatedConfig(level=level).weights(tokens).tolist() == [1.0] * 3


@LEVELS
def test_extreme_ratios_stay_finite(level: Level) -> None:
    tokens = old_tokens([-300.0, -0.1], rollout_log_probs=[-0.1, -300.0], row_lengths=[1, 1], dtype=torch.float32)
    assert TruncatedConfig(level=level).weights(tokens).tolist() == pytest.approx([0.0, 2.0])


@LEVELS
def test_no_tokens_have_no_weights(level: Level) -> None:
    assert TruncatedConfig(level=level).weights(old_tokens([])).shape == (0,)


def test_defaults_are_the_usual_ones() -> None:
    assert (TruncatedConfig().level, TruncatedConfig().cap) == (Level.token, 2.0)


@pytest.mark.parametrize("cap", [0.99, 0.0, -2.0, math.nan])
def test_config_refuses_what_cannot_work(cap: float) -> None:
    with pytest.raises(ValueError, match=rf"importance\.cap={cap}"):
        TruncatedConfig(cap=cap)
