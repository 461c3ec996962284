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
        self._pending: dict[bytes, asyncio.Future[Verdict]] = {}
        self.hits = 0
        """Verdicts given without scoring."""

    async def score(self, samples: Sequence[Sample], score: Score) -> list[Verdict]:
        """Verdicts in the order of the samples; `score` is called with those that are new."""
        if self._size == 0:
            return await score(samples)
        keys = [content_key(sample) for sample in samples]
        fresh: dict[bytes, Sample] = {}
        for key, sample in zip(keys, samples, strict=True):
            if key not in self._known and key not in self._pending:
                self._pending[key] = asyncio.get_running_loop().create_future()
                fresh[key] = sample
        awaited = {key: self._pending[key] for key in keys if key in self._pending}
        found = {key: self._known[key] for key in keys if key in self._known}
        if fresh:
            await self._score(fresh, score)
        for key, future in awaited.items():
            found[key] = await future
        self.hits += len(samples) - len(fresh)
        return [
            found[key] if fresh.pop(key, None) is not None else replace(found[key], seconds=0.0, queue_seconds=0.0)
            for key in keys
        ]

    async def _score(self, fresh: dict[bytes, Sample], score: Score) -> None:
        try:
            verdicts = await score(list(fresh.values()))
        except BaseException as error:  # also when cancelled: who waits for an equal answer must hear of it
            for key in fresh:
                future = self._pending.pop(key)
                future.set_exception(error if isinstance(error, Exception) else asyncio.CancelledError())
                future.exception()  # nobody has to be waiting
            raise
        for key, verdict in zip(fresh, verdicts, strict=True):
            self._pending.pop(key).set_result(verdict)
            if verdict.outcome.is_judgement:
                self._known[key] = verdict
                if len(self._known) > self._size:
                    self._known.popitem(last=False)
