from collections import Counter

import pytest

from delta.data.sampler import PromptSampler
from delta.types import Prompt
from tests.factories import make_prompt


def prompts(count: int) -> list[Prompt]:
    return [make_prompt(id=str(index)) for index in range(count)]


def ids(batch: list[Prompt]) -> list[str]:
    return [prompt.id for prompt in batch]


@pytest.mark.parametrize(("count", "batch_size"), [(12, 4), (10, 4), (7, 5), (3, 8), (1, 3), (5, 1)])
def test_each_prompt_comes_once_per_epoch(count: int, batch_size: int) -> None:
    sampler = PromptSampler(prompts(count), batch_size=batch_size, seed=0)
    epochs = 6
    stream = [name for step in range(count * epochs) for name in ids(sampler.batch(step))][: count * epochs]
    for start in range(0, len(stream), count):
        assert Counter(stream[start : start + count]) == Counter(str(index) for index in range(count))


def test_batches_have_the_asked_size_also_across_an_epochs_end() -> None:
    sampler = PromptSampler(prompts(5), batch_size=4, seed=0)
    assert [len(sampler.batch(step)) for step in range(10)] == [4] * 10


def test_batch_across_an_epochs_end_takes_the_rest_from_the_next_one() -> None:
    first, second = (ids(PromptSampler(prompts(5), batch_size=4, seed=0).batch(step)) for step in (0, 1))
    assert set(first) | {second[0]} == {"0", "1", "2", "3", "4"}
    assert len(set(second[1:])) == 3


def test_a_step_does_not_depend_on_the_steps_before() -> None:
    straight = PromptSampler(prompts(7), batch_size=3, seed=5)
    expected = {step: ids(straight.batch(step)) for step in range(12)}
    for step in (11, 0, 7, 7, 2, 10, 1):
        assert ids(straight.batch(step)) == expected[step]
        assert ids(PromptSampler(prompts(7), batch_size=3, seed=5).batch(step)) == expected[step]


def test_seeds_and_epochs_differ() -> None:
    one, other = (PromptSampler(prompts(50), batch_size=50, seed=seed) for seed in (0, 1))
    assert ids(one.batch(0)) != ids(other.batch(0))
    assert ids(one.batch(0)) != ids(one.batch(1))
    assert ids(one.batch(0)) != [str(index) for index in range(50)]


def test_next_seeds_first_epoch_is_not_this_seeds_second() -> None:
    one, other = (PromptSampler(prompts(50), batch_size=50, seed=seed) for seed in (0, 1))
    assert ids(one.batch(1)) != ids(other.batch(0))


def test_epoch_counts_complete_passes() -> None:
    sampler = PromptSampler(prompts(8), batch_size=4, seed=0)
    assert [sampler.epoch(step) for step in range(4)] == [0.0, 0.5, 1.0, 1.5]


def test_no_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one prompt"):
        PromptSampler([], batch_size=1, seed=0)
