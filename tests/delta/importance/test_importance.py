import math

import pytest
import torch

from delta.importance import Level
from delta.importance.importance import engine_log_ratio
from tests.delta.importance.batch import disagreeing_tokens, naive_ratios
from tests.objectives import old_tokens


@pytest.mark.parametrize("level", list(Level))
def test_ratio_equals_the_naive_loop(level: Level) -> None:
    tokens = disagreeing_tokens()
    expected = torch.tensor(naive_ratios(tokens, level), dtype=torch.float64)
    torch.testing.assert_close(engine_log_ratio(tokens, level).exp(), expected)


def test_hand_worked_ratio_is_learner_over_engine() -> None:
    tokens = old_tokens([-1.0, -2.0, -3.0], rollout_log_probs=[-1.5, -1.0, -3.5], row_lengths=[2, 1])
    assert engine_log_ratio(tokens, Level.token).tolist() == [0.5, -1.0, 0.5]
    assert engine_log_ratio(tokens, Level.sequence).tolist() == [-0.5, -0.5, 0.5]


@pytest.mark.parametrize("junk", [math.nan, math.inf, 1e30])
def test_tokens_off_the_loss_mask_do_not_count_in_their_rollout(junk: float) -> None:
    tokens = old_tokens([-1.0, junk, -3.0], rollout_log_probs=[-1.5, -1.0, -3.25], loss_mask=[True, False, True])
    assert engine_log_ratio(tokens, Level.sequence).tolist() == [0.75] * 3


@pytest.mark.parametrize("level", list(Level))
def test_no_tokens_have_no_ratio(level: Level) -> None:
    assert engine_log_ratio(old_tokens([]), level).shape == (0,)
