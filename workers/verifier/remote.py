"""A scoring service elsewhere, behind the same protocol as the pool.

    POST {url}/score  {"samples": [row, ...]}  ->  {"verdicts": [row, ...]}      rows as in `rows.py`
    GET  {url}/health                          ->  200 once it can score

429 and 503 mean "later"; they are tried again like a lost connection.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import aiohttp

from delta.errors import ConfigError, WorkerError
from delta.types import Outcome, Sample, Verdict
from workers.verifier.cache import VerdictCache
from workers.verifier.config import RemoteConfig
from workers.verifier.rows import row_of_sample, verdict_from_row
from workers.verifier.verifier import VerifierStatistics

PAUSE_S = 0.5
"""Before the first retry; doubled for each further one."""


class RemoteVerifier:
    """Scores answers through HTTP requests; what the service cannot score is an `error`, never a wrong answer."""

    def __init__(self, config: RemoteConfig) -> None:
        """Prepare; nothing is sent yet.

        Raises:
            ConfigError: There is no URL.
        """
        if not config.url:
            raise ConfigError("verifier.url is empty: expected the address of a scoring service, http://HOST:PORT.")
        self._config = config
        self._cache = VerdictCache(config.cache_size)
        self._statistics = VerifierStatistics()
        self._counted_hits = 0
        self._requests = asyncio.Semaphore(config.max_in_flight)

    async def ready(self) -> None:
        """Return once the service answers.

        Raises:
            WorkerError: It does not.
        """
        url = f"{self._config.url.rstrip('/')}/health"
        try:
            async with self._session() as session, session.get(url) as response:
                response.raise_for_status()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise WorkerError(
                f"verifier.url={self._config.url}: {url} does not answer ({type(error).__name__}: {error}). Expected a "
                "scoring service; start one with: delta-verify serve=HOST:PORT"
            ) from error

    async def score(self, samples: Sequence[Sample]) -> list[Verdict]:
        """Verdicts in the order of the samples; waits while too many requests are under way."""
        return await self._cache.score(samples, self._score)

    def take_statistics(self) -> VerifierStatistics:
        """What happened since the last call."""
        taken, self._statistics = self._statistics, VerifierStatistics()
        taken.cached, self._counted_hits = self._cache.hits - self._counted_hits, self._cache.hits
        return taken

    def close(self) -> None:
        """Nothing is left open between requests."""

    async def _score(self, samples: Sequence[Sample]) -> list[Verdict]:
        size = self._config.batch_size
        lots = [samples[first : first + size] for first in range(0, len(samples), size)]
        return [verdict for lot in await asyncio.gather(*map(self._score_lot, lots)) for verdict in lot]

    async def _score_lot(self, lot: Sequence[Sample]) -> list[Verdict]:
        trouble = ""
        for attempt in range(self._config.retries + 1):
            if attempt:
                self._statistics.retried += len(lot)
                await asyncio.sleep(PAUSE_S * 2 ** (attempt - 1))
            try:
                async with self._requests, self._session() as session:
                    return await self._request(session, lot)
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                trouble = f"{type(error).__name__}: {error}"
                self._statistics.replaced += 1
        return [Verdict(Outcome.error, 0.0, f"{self._config.url}: {trouble}"[:300])] * len(lot)

    async def _request(self, session: aiohttp.ClientSession, lot: Sequence[Sample]) -> list[Verdict]:
        body = {"samples": [row_of_sample(sample) for sample in lot]}
        async with session.post(f"{self._config.url.rstrip('/')}/score", json=body) as response:
            if response.status == 400:  # it would be refused again
                return [Verdict(Outcome.error, 0.0, f"{self._config.url}: {await response.text()}"[:300])] * len(lot)
            response.raise_for_status()
            answer: Any = await response.json()
        rows = answer.get("verdicts") if isinstance(answer, dict) else None
        if not isinstance(rows, list) or len(rows) != len(lot):
            raise ValueError(f"the service answered {answer!r:.80}; expected {len(lot)} verdicts")
        return [verdict_from_row(row) for row in rows]

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self._config.timeout_s))
