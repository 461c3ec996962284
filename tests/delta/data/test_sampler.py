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
    sampler = PromptSampler(prompts(count), seed=0)
    epochs = 6
    stream = [name for step in range(count * epochs) for name in ids(sampler.take(step * batch_size, batch_size))][
        : count * epochs
    ]
    for start in range(0, len(stream), count):
        assert Counter(stream[start : start + count]) == Counter(str(index) for index in range(count))


def test_batches_have_the_asked_size_also_across_an_epochs_end() -> None:
    sampler = PromptSampler(prompts(5), seed=0)
    assert [len(sampler.take(4 * step, 4)) for step in range(10)] == [4] * 10


def test_batch_across_an_epochs_end_takes_the_rest_from_the_next_one() -> None:
    first, second = (ids(PromptSampler(prompts(5), seed=0).take(position, 4)) for position in (0, 4))
    assert set(first) | {second[0]} == {"0", "1", "2", "3", "4"}
    assert len(set(second[1:])) == 3


def test_a_batch_does_not_depend_on_the_batches_before_or_their_sizes() -> None:
    straight = PromptSampler(prompts(7), seed=5)
    stream = ids(straight.take(0, 36))
    for position, count in ((33, 3), (0, 1), (21, 9), (21, 3), (6, 2), (30, 6), (3, 0)):
        assert ids(straight.take(position, count)) == stream[position : position + count]
        assert ids(PromptSampler(prompts(7), seed=5).take(position, count)) == stream[position : position + count]


def test_seeds_and_epochs_differ() -> None:
    one, other = (PromptSampler(prompts(50), seed=seed) for seed in (0, 1))
    assert ids(one.take(0, 50)) != ids(other.take(0, 50))
    assert ids(one.take(0, 50)) != ids(one.take(50, 50))
    assert ids(one.take(0, 50)) != [str(index) for index in range(50)]


def test_next_seeds_first_epoch_is_not_this_seeds_second() -> None:
    one, other = (PromptSampler(prompts(50), seed=seed) for seed in (0, 1))
    assert ids(one.take(50, 50)) != ids(other.take(0, 50))


def test_epoch_counts_complete_passes() -> None:
    sampler = PromptSampler(prompts(8), seed=0)
    assert [sampler.epoch(position) for position in (0, 4, 8, 12)] == [0.0, 0.5, 1.0, 1.5]


def test_no_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one prompt"):
        PromptSampler([], seed=0)
