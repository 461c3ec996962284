import numpy as np
import torch

from delta.data.collate import collate, rewards_of
from delta.types import Outcome, TrainBatch
from tests.factories import make_group, make_prompt, make_rollout

# Every token id in this batch is different and none is 0, so a wrong index shows.
RESPONSES = [(101, 102, 103), (104,), (105, 106), (107, 108, 109, 110)]


def make_batch() -> TrainBatch:
    first = make_group([1.0, 0.0], prompt=make_prompt((11, 12), id="a"), responses=RESPONSES[:2])
    second = make_group([0.0, 1.0], group=1, prompt=make_prompt((13,), id="b"), responses=RESPONSES[2:])
    return collate([first, second], torch.tensor([[1.0, -1.0], [-0.5, 0.5]]))


def test_rewards_come_as_a_rectangle() -> None:
    rewards, judged = rewards_of([make_group([1.0, 0.0]), make_group([0.5, 0.25])])
    assert rewards.dtype == torch.float32
    assert rewards.tolist() == [[1.0, 0.0], [0.5, 0.25]]
    assert judged.dtype == torch.bool
    assert judged.all()


def test_unjudged_rewards_are_zero_and_marked() -> None:
    group = make_group([1.0, 9.0, float("nan")], outcomes=[Outcome.correct, Outcome.timeout, Outcome.error])
    rewards, judged = rewards_of([group])
    assert rewards.tolist() == [[1.0, 0.0, 0.0]]
    assert judged.tolist() == [[True, False, False]]


def test_unparsable_answer_is_judged() -> None:
    _, judged = rewards_of([make_group([0.0], outcomes=[Outcome.unparsable])])
    assert judged.tolist() == [[True]]


def test_rows_lie_one_after_the_other() -> None:
    batch = make_batch()
    assert batch.token_ids.tolist() == [11, 12, 101, 102, 103, 11, 12, 104, 13, 105, 106, 13, 107, 108, 109, 110]
    assert batch.offsets.tolist() == [0, 5, 8, 11, 16]
    assert batch.prompt_lengths.tolist() == [2, 2, 1, 1]
    assert batch.advantages.tolist() == [1.0, -1.0, -0.5, 0.5]
    assert (batch.token_ids.dtype, batch.offsets.dtype) == (np.int32, np.int64)


def test_log_probs_follow_the_response_tokens() -> None:
    group = make_group()
    rollouts = (make_rollout((1, 2), rollout_log_probs=(-1.0, -2.0)), make_rollout((3,), rollout_log_probs=(-3.0,)))
    batch = collate([type(group)(group.prompt, rollouts, group.verdicts)], torch.zeros(1, 2))
    assert batch.rollout_log_probs.tolist() == [-1.0, -2.0, -3.0]
    assert batch.rollout_log_probs.dtype == np.float32


def test_loss_mask_covers_the_sampled_tokens_and_nothing_else() -> None:
    batch = make_batch()
    assert batch.loss_mask.dtype == np.bool_
    assert batch.loss_mask.tolist() == [True] * sum(len(response) for response in RESPONSES)
