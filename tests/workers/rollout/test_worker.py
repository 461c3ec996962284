"""A rollout worker pairs completions with their tasks, hands them on early, and stamps its policy version."""

from tests.fakes import FakeEngine
from workers.rollout.engine import SamplingRequest
from workers.rollout.worker import CHUNK, RolloutTask, RolloutWorker
from workers.warm_start.tokenizer import byte_tokenizer


def make_worker() -> RolloutWorker:
    worker = object.__new__(RolloutWorker)
    worker._tokenizer = byte_tokenizer()
    worker._engine = FakeEngine()
    worker._policy_version = 0
    return worker


def tasks(count: int) -> list[RolloutTask]:
    encode = byte_tokenizer().encode
    return [
        RolloutTask(place // 8, place % 8, SamplingRequest(tuple(encode(chr(33 + place % 90))), 1.0, 4, seed=place))
        for place in range(count)
    ]


def test_every_task_gets_its_own_rollout_whatever_the_order():
    work = tasks(100)
    rollouts = [rollout for lot in make_worker().generate(work) for rollout in lot]
    found = {(rollout.group, rollout.index): rollout for rollout in rollouts}
    assert len(found) == 100
    for task in work:
        rollout = found[task.group, task.index]
        assert rollout.seed == task.request.seed
        assert rollout.token_ids.tolist() == [task.request.prompt_token_ids[-1]]
        assert rollout.text == byte_tokenizer().decode(task.request.prompt_token_ids)


def test_lots_are_handed_on_while_others_are_still_sampled():
    lots = list(make_worker().generate(tasks(2 * CHUNK + 3)))
    assert [len(lot) for lot in lots] == [CHUNK, CHUNK, 3]


def test_rollouts_carry_the_version_of_the_last_finished_update():
    worker = make_worker()
    worker.start_weight_update()
    worker.update_weights({})
    assert [lot[0].policy_version for lot in worker.generate(tasks(1))] == [0]
    worker.finish_weight_update("5")
    assert [lot[0].policy_version for lot in worker.generate(tasks(1))] == [5]
    assert worker._engine.version == 5
    assert worker._engine.transfers == ["start_weight_update", "update_weights", "finish_weight_update"]
