import pickle
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch

import delta
from delta.data.collate import collate
from delta.types import Outcome, RolloutGroup, UpdateReport
from tests.factories import make_group, make_prompt, make_rollout, make_verdict


def test_every_public_name_exists() -> None:
    assert all(hasattr(delta, name) for name in delta.__all__)


def test_judgements_are_the_outcomes_that_speak_about_the_answer() -> None:
    assert [outcome for outcome in Outcome if outcome.is_judgement] == [
        Outcome.correct,
        Outcome.wrong,
        Outcome.unparsable,
    ]


def test_group_refuses_rollouts_without_verdicts() -> None:
    with pytest.raises(ValueError, match="2 rollouts with 1 verdicts in p7"):
        RolloutGroup(make_prompt(id="p7"), (make_rollout(), make_rollout(index=1)), (make_verdict(1.0),))


def test_records_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        make_prompt().answer = "2"
    with pytest.raises(FrozenInstanceError):
        make_rollout().policy_version = 1


def test_prompt_does_not_print_its_token_ids() -> None:
    assert "token_ids" not in repr(make_prompt())


def test_group_survives_the_trip_to_another_process() -> None:
    group = make_group([1.0, 0.0], outcomes=[Outcome.correct, Outcome.timeout])
    copy = pickle.loads(pickle.dumps(group))
    assert copy.prompt == group.prompt
    assert copy.verdicts == group.verdicts
    assert copy.verdicts[1].outcome is Outcome.timeout
    for one, other in zip(copy.rollouts, group.rollouts, strict=True):
        np.testing.assert_array_equal(one.token_ids, other.token_ids)
        np.testing.assert_array_equal(one.rollout_log_probs, other.rollout_log_probs)


def test_batch_and_report_survive_the_trip_to_another_process() -> None:
    batch = collate([make_group()], torch.tensor([[1.0, -1.0]]))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(batch)).offsets, batch.offsets)
    report = UpdateReport(3, {"loss/surrogate": 0.5})
    assert pickle.loads(pickle.dumps(report)) == report


def test_batch_knows_where_rows_and_responses_lie() -> None:
    group = make_group([1.0, 0.0, 0.0], prompt=make_prompt((1, 2)), responses=[(5, 6, 7), (), (8,)])
    batch = collate([group], torch.zeros(1, 3))
    assert batch.rows == 3
    assert batch.offsets.tolist() == [0, 5, 7, 10]
    assert batch.row_lengths.tolist() == [5, 2, 3]
    assert batch.response_lengths.tolist() == [3, 0, 1]
    assert batch.response_offsets.tolist() == [0, 3, 3, 4]
    assert np.issubdtype(batch.response_offsets.dtype, np.integer)
