"""The scoring service that `RemoteVerifier` talks to: a supervisor behind two HTTP routes, for a trusted network.

It has no authentication. Whoever can reach it can have programs run in its sandboxes, and judges imported by their
Python path.
"""

import asyncio
import signal

from aiohttp import web

from workers.verifier.rows import row_of_verdict, sample_from_row
from workers.verifier.supervisor import Supervisor

MAX_BODY = 256 * 2**20


class ScoringService:
    """Answers `POST /score` and `GET /health`."""

    def __init__(self, supervisor: Supervisor, *, max_waiting: int) -> None:
        """Score with `supervisor`; refuse (503) what would make more than `max_waiting` answers wait."""
        self._supervisor = supervisor
        self._max_waiting = max_waiting
        self._waiting = 0

    def application(self) -> web.Application:
        """For an aiohttp server."""
        application = web.Application(client_max_size=MAX_BODY)
        application.add_routes([web.get("/health", self._health), web.post("/score", self._score)])
        return application

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"workers": self._supervisor.workers, "waiting": self._waiting})

    async def _score(self, request: web.Request) -> web.Response:
        try:
            body = await request.json()
            samples = [sample_from_row(row) for row in body["samples"]]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            return web.json_response({"error": f"{type(error).__name__}: {error}"}, status=400)
        # A lot that finds nothing waiting is let in whatever its size: it could never come in otherwise.
        if self._waiting and self._waiting + len(samples) > self._max_waiting:
            return web.json_response({"error": f"{self._waiting} answers wait already"}, status=503)
        self._waiting += len(samples)
        try:
            futures = [asyncio.wrap_future(self._supervisor.submit(sample)) for sample in samples]
            verdicts = await asyncio.gather(*futures)
        finally:
            self._waiting -= len(samples)
        return web.json_response({"verdicts": [row_of_verdict(verdict) for verdict in verdicts]})


async def serve(supervisor: Supervisor, *, host: str, port: int, max_waiting: int) -> None:
    """Serve until SIGINT or SIGTERM."""
    ended = asyncio.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signal_number, ended.set)
    runner = web.AppRunner(ScoringService(supervisor, max_waiting=max_waiting).application())
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        await ended.wait()
    finally:
        await runner.cleanup()
