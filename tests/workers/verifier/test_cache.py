"""Equal answers are scored once, whether they come together, at the same time or later."""

import asyncio
from dataclasses import replace

import pytest

from delta.types import FunctionTests, Outcome, PluginAnswer, Sample, StdioCase, StdioTests, Verdict
from workers.verifier.cache import VerdictCache, content_key

WRONG = Outcome.wrong


class FakeScore:
    """Gives every sample its own verdict; remembers what it was asked, and waits where it is told to."""

    def __init__(self, outcome: Outcome = WRONG):
        self.asked: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self._outcome = outcome

    async def __call__(self, samples):
        self.asked.append([sample.response for sample in samples])
        await self.gate.wait()
        return [Verdict(self._outcome, 0.0, sample.response, 1.0, 2.0) for sample in samples]


def samples(text: str) -> list[Sample]:
    return [Sample(letter, "1") for letter in text]


def details(verdicts) -> str:
    return "".join(verdict.detail for verdict in verdicts)


def test_equal_answers_of_one_call_are_scored_once():
    cache, score = VerdictCache(10), FakeScore()
    verdicts = asyncio.run(cache.score(samples("abacab"), score))
    assert details(verdicts) == "abacab"
    assert score.asked == [["a", "b", "c"]]
    assert cache.hits == 3
    assert [verdict.seconds for verdict in verdicts] == [1.0, 1.0, 0.0, 1.0, 0.0, 0.0]
    assert [verdict.queue_seconds for verdict in verdicts] == [2.0, 2.0, 0.0, 2.0, 0.0, 0.0]


def test_known_verdicts_are_given_again_and_the_oldest_are_forgotten():
    cache, score = VerdictCache(2), FakeScore()

    async def use():
        return [details(await cache.score(samples(text), score)) for text in ("ab", "ab", "c", "b", "a")]

    assert asyncio.run(use()) == ["ab", "ab", "c", "b", "a"]
    assert score.asked == [["a", "b"], ["c"], ["a"]]


def test_an_answer_waits_for_an_equal_one_that_is_on_its_way():
    async def use():
        cache, score = VerdictCache(10), FakeScore()
        score.gate.clear()
        first = asyncio.create_task(cache.score(samples("ab"), score))
        await asyncio.sleep(0)
        second = asyncio.create_task(cache.score(samples("bc"), score))
        await asyncio.sleep(0)
        score.gate.set()
        return details(await first) + details(await second), score.asked, cache.hits

    assert asyncio.run(use()) == ("abbc", [["a", "b"], ["c"]], 1)


@pytest.mark.parametrize("outcome", [Outcome.timeout, Outcome.error])
def test_what_was_not_judged_is_not_remembered(outcome):
    cache, score = VerdictCache(10), FakeScore(outcome)

    async def use():
        await cache.score(samples("aa"), score)
        await cache.score(samples("a"), score)

    asyncio.run(use())
    assert score.asked == [["a"], ["a"]]


def test_without_a_size_every_answer_is_scored():
    cache, score = VerdictCache(0), FakeScore()
    asyncio.run(cache.score(samples("aa"), score))
    assert (score.asked, cache.hits) == ([["a", "a"]], 0)


def test_a_failure_reaches_everybody_who_waits_and_is_not_remembered():
    async def use():
        cache, score = VerdictCache(10), FakeScore()
        gate = asyncio.Event()

        async def fails(asked):
            await gate.wait()
            raise LookupError("lost")

        waiting = [asyncio.create_task(cache.score(samples("a"), fails)) for _ in range(3)]
        await asyncio.sleep(0)
        gate.set()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        return [type(error) for error in found], details(await cache.score(samples("a"), score))

    assert asyncio.run(use()) == ([LookupError] * 3, "a")


def cancelled_while_others_wait(which: int):
    """Three calls for the same answers, of which the one at place `which` is cancelled before any is scored."""

    async def use():
        cache, score = VerdictCache(10), FakeScore()
        score.gate.clear()
        calls = [asyncio.create_task(cache.score(samples("ab"), score)) for _ in range(3)]
        await asyncio.sleep(0)
        calls[which].cancel()
        await asyncio.sleep(0)
        score.gate.set()
        found = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 10)
        assert isinstance(found.pop(which), asyncio.CancelledError)
        return [details(verdicts) for verdicts in found], score.asked, cache.hits, cache._pending

    return asyncio.run(use())


def test_who_waits_for_a_call_that_is_cancelled_takes_over():
    found, asked, hits, pending = cancelled_while_others_wait(0)
    assert found == ["ab", "ab"]
    assert asked == [["a", "b"], ["a", "b"]]
    assert (hits, pending) == (2, {})


def test_who_is_cancelled_while_waiting_disturbs_nobody():
    found, asked, hits, pending = cancelled_while_others_wait(1)
    assert found == ["ab", "ab"]
    assert asked == [["a", "b"]]
    assert (hits, pending) == (2, {})


def test_a_wrong_number_of_verdicts_leaves_nobody_waiting():
    async def none_at_all(asked):
        await asyncio.sleep(0)
        return []

    async def use():
        cache = VerdictCache(10)
        calls = [cache.score(samples("a"), none_at_all) for _ in range(2)]
        return await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 10)

    assert [type(error) for error in asyncio.run(use())] == [ValueError, ValueError]


PLAIN = Sample("r", "1")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *[
            (PLAIN, replace(PLAIN, **change))
            for change in ({"response": "s"}, {"answer": "2"}, {"prompt": "p"}, {"tokens": 1}, {"max_tokens": 1})
        ],
        (PLAIN, replace(PLAIN, truncated=True)),
        (Sample("r", FunctionTests("a.b", "f")), Sample("r", PluginAnswer("a.b", "f"))),
        (Sample("r", StdioTests((StdioCase("1", "2"),))), Sample("r", StdioTests((StdioCase("1", "3"),)))),
        (Sample("r", "('a',)"), Sample("r", "a")),
    ],
)
def test_samples_that_differ_anywhere_are_not_equal(one, other):
    assert content_key(one) != content_key(other)
    assert content_key(one) == content_key(replace(one))


def test_a_lone_surrogate_has_a_key():
    assert content_key(Sample("\ud800", "1")) != content_key(Sample("\udfff", "1"))
