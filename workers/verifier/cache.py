"""Equal answers are scored once: verdicts by the content of what was scored."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import astuple, replace

from delta.types import Sample, Verdict

Score = Callable[[Sequence[Sample]], Awaitable[list[Verdict]]]


def content_key(sample: Sample) -> bytes:
    """A hash of everything that a verdict may depend on."""
    content = (type(sample.answer).__name__, astuple(sample))  # references of two kinds may have equal fields
    return hashlib.blake2b(repr(content).encode(), digest_size=16).digest()


class VerdictCache:
    """Remembers the last verdicts, and lets an answer wait for an equal one that is on its way.

    Timeouts and errors are not remembered: they say nothing about the answer.
    """

    def __init__(self, size: int) -> None:
        """Remember up to `size` verdicts; 0 for none, then every answer is scored."""
        self._size = size
        self._known: OrderedDict[bytes, Verdict] = OrderedDict()
        self._pending: dict[bytes, asyncio.Future[Verdict | None]] = {}
        self.hits = 0
        """Verdicts given without scoring."""

    async def score(self, samples: Sequence[Sample], score: Score) -> list[Verdict]:
        """Verdicts in the order of the samples; `score` is called with those that are new."""
        if self._size == 0:
            return await score(samples)
        keys = [content_key(sample) for sample in samples]
        left = dict(zip(keys, samples, strict=True))
        found: dict[bytes, Verdict] = {}
        scored: dict[bytes, Sample] = {}
        while left:  # again, when a call that we waited for was cancelled: its answers are ours then
            found |= {key: self._known[key] for key in left if key in self._known}
            awaited = {key: self._pending[key] for key in left if key in self._pending}
            fresh = {key: sample for key, sample in left.items() if key not in found and key not in awaited}
            if fresh:
                found |= await self._score(fresh, score)
                scored |= fresh
            for key, future in awaited.items():
                verdict = await asyncio.shield(future)  # our own cancellation is not that of all who wait
                if verdict is not None:
                    found[key] = verdict
            left = {key: sample for key, sample in left.items() if key not in found}
        self.hits += len(samples) - len(scored)
        return [
            found[key] if scored.pop(key, None) is not None else replace(found[key], seconds=0.0, queue_seconds=0.0)
            for key in keys
        ]

    async def _score(self, fresh: dict[bytes, Sample], score: Score) -> dict[bytes, Verdict]:
        """Score and remember; who waits gets the verdict, the error, or None when this call is cancelled."""
        loop = asyncio.get_running_loop()
        self._pending |= {key: loop.create_future() for key in fresh}
        verdicts: dict[bytes, Verdict] = {}
        try:
            verdicts = dict(zip(fresh, await score(list(fresh.values())), strict=True))
        except Exception as error:  # whatever it was, all who wait for these verdicts hear of it
            for key in fresh:
                self._pending[key].set_exception(error)
                self._pending[key].exception()  # nobody has to be waiting
            raise
        finally:
            for key in fresh:
                future = self._pending.pop(key)
                if not future.done():
                    future.set_result(verdicts.get(key))
        for key, verdict in verdicts.items():
            if verdict.outcome.is_judgement:
                self._known[key] = verdict
                if len(self._known) > self._size:
                    self._known.popitem(last=False)
        return verdicts
