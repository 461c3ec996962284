import numpy as np
import torch

from delta.data.collate import MicroBatch, collate, pad_rows, response_index, rewards_of
from delta.types import Outcome, TrainBatch
from tests.factories import make_group, make_prompt, make_rollout

# Every token id in this batch is different and none is 0, so a wrong index shows.
RESPONSES = [(101, 102, 103), (104,), (105, 106), (107, 108, 109, 110)]


def make_batch() -> TrainBatch:
    first = make_group([1.0, 0.0], prompt=make_prompt((11, 12), id="a"), responses=RESPONSES[:2])
    second = make_group([0.0, 1.0], group=1, prompt=make_prompt((13,), id="b"), responses=RESPONSES[2:])
    return collate([first, second], torch.tensor([[1.0, -1.0], [-0.5, 0.5]]))


def predicting_tokens(micro_batch: MicroBatch) -> list[int]:
    return micro_batch.token_ids.flatten()[micro_batch.predictors].tolist()


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


def test_targets_are_the_response_tokens() -> None:
    batch = make_batch()
    assert pad_rows(batch, [0, 1, 2, 3]).targets.tolist() == [token for response in RESPONSES for token in response]
    assert pad_rows(batch, [3, 1]).targets.tolist() == [*RESPONSES[3], *RESPONSES[1]]


def test_predictors_point_one_token_before_their_targets() -> None:
    micro_batch = pad_rows(make_batch(), [0, 1, 2, 3])
    assert predicting_tokens(micro_batch) == [12, 101, 102, 12, 13, 105, 13, 107, 108, 109]
    width = micro_batch.token_ids.shape[1]
    for place, target in zip(micro_batch.predictors.tolist(), micro_batch.targets.tolist(), strict=True):
        rest = micro_batch.token_ids[place // width, place % width + 1 :].tolist()
        assert not rest or rest[0] in (target, 0)  # a row's last token is a target but no input: a pad stands there


def test_pads_are_on_the_right_and_are_never_predictor_or_target() -> None:
    batch = make_batch()
    micro_batch = pad_rows(batch, [1, 0, 3])
    assert micro_batch.token_ids.tolist() == [[11, 12, 0, 0], [11, 12, 101, 102], [13, 107, 108, 109]]
    assert 0 not in micro_batch.targets.tolist()
    assert 0 not in predicting_tokens(micro_batch)


def test_rows_are_padded_to_the_longest_of_them_only() -> None:
    assert pad_rows(make_batch(), [1, 2]).token_ids.shape == (2, 2)


def test_response_index_finds_the_targets_in_the_response_arrays() -> None:
    batch = make_batch()
    responses = np.array([token for response in RESPONSES for token in response])
    for rows in ([0, 1, 2, 3], [3, 0], [2], []):
        places = response_index(batch, rows)
        assert places.dtype == np.int64
        assert responses[places].tolist() == pad_rows(batch, rows).targets.tolist()


def test_no_rows_give_one_pad_and_no_targets() -> None:
    micro_batch = pad_rows(make_batch(), [])
    assert micro_batch.token_ids.tolist() == [[0]]
    assert micro_batch.predictors.shape == micro_batch.targets.shape == (0,)
    for tensor in (micro_batch.token_ids, micro_batch.predictors, micro_batch.targets):
        assert tensor.dtype == torch.int64


def test_response_without_tokens_has_no_targets() -> None:
    group = make_group([0.0, 1.0], prompt=make_prompt((11, 12)), responses=[(), (101,)])
    batch = collate([group], torch.zeros(1, 2))
    assert pad_rows(batch, [0]).targets.tolist() == []
    assert predicting_tokens(pad_rows(batch, [0, 1])) == [12]
    assert response_index(batch, [0, 1]).tolist() == [0]
