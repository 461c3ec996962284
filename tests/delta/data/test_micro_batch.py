import numpy as np
import pytest
import torch

from delta.data.collate import collate
from delta.data.micro_batch import MicroBatch, pack_rows, pad_rows, response_index, row_index
from delta.types import TrainBatch
from tests.factories import make_group, make_prompt

# Every token id in this batch is different and none is 0, so a wrong index shows.
RESPONSES = [(101, 102, 103), (104,), (105, 106), (107, 108, 109, 110)]


def make_batch() -> TrainBatch:
    first = make_group([1.0, 0.0], prompt=make_prompt((11, 12), id="a"), responses=RESPONSES[:2])
    second = make_group([0.0, 1.0], group=1, prompt=make_prompt((13,), id="b"), responses=RESPONSES[2:])
    return collate([first, second], torch.tensor([[1.0, -1.0], [-0.5, 0.5]]))


def predicting_tokens(micro_batch: MicroBatch) -> list[int]:
    return micro_batch.token_ids.flatten()[micro_batch.predictors].tolist()


@pytest.mark.parametrize("lay_out", [pack_rows, pad_rows])
def test_both_layouts_ask_for_the_same(lay_out) -> None:
    batch = make_batch()
    for rows in ([0, 1, 2, 3], [3, 1], [2], []):
        micro_batch = lay_out(batch, rows)
        assert micro_batch.targets.tolist() == [token for row in rows for token in RESPONSES[row]]
        # The tokens that predict a row's response are its prompt's last and the response's all but last.
        prompts = (12, 12, 13, 13)
        expected = [token for row in rows for token in (prompts[row], *RESPONSES[row][:-1])]
        assert predicting_tokens(micro_batch) == expected
        assert (micro_batch.predictors.diff() > 0).all()
        for tensor in (micro_batch.token_ids, micro_batch.predictors, micro_batch.targets):
            assert tensor.dtype == torch.int64


def test_packed_rows_lie_end_to_end_without_their_last_tokens() -> None:
    micro_batch = pack_rows(make_batch(), [1, 0, 3])
    assert micro_batch.token_ids.tolist() == [[11, 12, 11, 12, 101, 102, 13, 107, 108, 109]]
    assert micro_batch.row_lengths == (2, 4, 4)


def test_a_dummy_row_fills_up_to_the_multiple() -> None:
    micro_batch = pack_rows(make_batch(), [1, 0, 3], multiple_of=4)
    assert micro_batch.token_ids.tolist() == [[11, 12, 11, 12, 101, 102, 13, 107, 108, 109, 0, 0]]
    assert micro_batch.row_lengths == (2, 4, 4, 2)
    assert pack_rows(make_batch(), [0, 3], multiple_of=4).row_lengths == (4, 4)


def test_no_rows_pack_into_one_dummy() -> None:
    assert pack_rows(make_batch(), []).row_lengths == (1,)
    micro_batch = pack_rows(make_batch(), [], multiple_of=3)
    assert (micro_batch.token_ids.tolist(), micro_batch.row_lengths) == ([[0, 0, 0]], (3,))
    assert micro_batch.predictors.shape == micro_batch.targets.shape == (0,)


def test_row_index_counts_the_given_rows() -> None:
    assert row_index(make_batch(), [3, 1]).tolist() == [0, 0, 0, 0, 1]


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
