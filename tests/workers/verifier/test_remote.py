"""A scoring service behind HTTP: the same verdicts as here, and errors where there are none."""

import asyncio
import socket
from collections.abc import Iterator

import aiohttp
import pytest
from aiohttp import web

from delta.errors import ConfigError, WorkerError
from delta.rewards import PartConfig, RewardConfig
from delta.types import FunctionTests, Outcome, Sample
from tests.workers.verifier import judges
from workers.verifier import remote
from workers.verifier.config import PoolConfig, RemoteConfig, ScoringConfig
from workers.verifier.remote import RemoteVerifier
from workers.verifier.service import ScoringService
from workers.verifier.supervisor import Supervisor
from workers.verifier.verifier import verifier_for

CORRECT, WRONG, UNPARSABLE, TIMEOUT, ERROR = Outcome
MIXED = [
    Sample("\\boxed{\\frac{2}{4}}", "0.5"),
    Sample("#### 3", "4"),
    Sample("", "4"),
    judges.of("echo", "0.25"),
    judges.of("raises"),
    Sample("def f():\n    return 1", FunctionTests("assert f() == 1", "f"), prompt="?", tokens=7, max_tokens=9),
    Sample("\ud800 #### 4", "4"),
]


@pytest.fixture(scope="module")
def supervisor() -> Iterator[Supervisor]:
    supervisor = Supervisor(ScoringConfig(PoolConfig(timeout_s=60.0), RewardConfig()), workers=2)
    yield supervisor
    supervisor.close()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(remote, "PAUSE_S", 0.001)


def with_server(application: web.Application, use, **config):
    """What `use` returns, called with a verifier for a server on the loopback device."""

    async def run():
        runner = web.AppRunner(application)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            return await use(RemoteVerifier(RemoteConfig(url=f"http://{host}:{port}", **config)))
        finally:
            await runner.cleanup()

    return asyncio.run(run())


def replies(*handlers) -> web.Application:
    """A service that answers with one handler after the other, the last one for ever."""
    left = list(handlers)

    async def answer(request: web.Request) -> web.Response:
        handler = left.pop(0) if len(left) > 1 else left[0]
        return handler(len((await request.json())["samples"]))

    application = web.Application()
    application.add_routes([web.post("/score", answer)])
    return application


def status(code: int):
    return lambda count: web.json_response({"error": "no"}, status=code)


def verdicts(rows):
    return lambda count: web.json_response({"verdicts": rows if rows is not None else [GOOD] * count})


GOOD = {"outcome": "correct", "reward": 1.0}


def score(samples):
    async def use(verifier: RemoteVerifier):
        return await verifier.score(samples), verifier.take_statistics()

    return use


def test_verdicts_are_those_of_the_supervisor_behind_it_in_order(supervisor):
    service = ScoringService(supervisor, max_waiting=1000)
    found, statistics = with_server(service.application(), score([*MIXED, *MIXED]), batch_size=3)
    expected = supervisor.score(MIXED)
    assert [(verdict.outcome, verdict.reward, verdict.detail, dict(verdict.parts)) for verdict in found] == [
        (verdict.outcome, verdict.reward, verdict.detail, dict(verdict.parts)) for verdict in [*expected, *expected]
    ]
    assert [verdict.outcome for verdict in expected] == [CORRECT, WRONG, UNPARSABLE, WRONG, ERROR, CORRECT, CORRECT]
    assert (statistics.cached, statistics.retried, statistics.replaced) == (7, 0, 0)


def test_a_service_that_can_score_is_ready(supervisor):
    with_server(ScoringService(supervisor, max_waiting=1).application(), lambda verifier: verifier.ready())


def test_a_service_that_is_full_is_asked_again_until_all_is_scored(supervisor):
    samples = [judges.of("sleeps", "0.01", answer=str(index)) for index in range(24)]
    service = ScoringService(supervisor, max_waiting=4)
    config = {"batch_size": 4, "max_in_flight": 6, "retries": 12}
    found, statistics = with_server(service.application(), score(samples), **config)
    assert [verdict.outcome for verdict in found] == [CORRECT] * 24
    assert statistics.retried > 0


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_request_that_failed_is_tried_again(code):
    found, statistics = with_server(replies(status(code), status(code), verdicts(None)), score(MIXED))
    assert [verdict.outcome for verdict in found] == [CORRECT] * len(MIXED)
    assert (statistics.retried, statistics.replaced) == (2 * len(MIXED), 2)


@pytest.mark.parametrize(
    "reply",
    [
        status(503),
        verdicts([]),
        verdicts([GOOD, GOOD, GOOD]),
        verdicts([{"outcome": "fine", "reward": 1.0}] * 2),
        verdicts([{"outcome": "correct", "reward": float("nan")}] * 2),
        lambda count: web.json_response([1, 2]),
        lambda count: web.Response(text="<html>", content_type="text/html"),
        lambda count: web.Response(text="{", content_type="application/json"),
    ],
)
def test_a_service_that_never_gives_verdicts_makes_errors(reply):
    found, statistics = with_server(replies(reply), score(MIXED[:2]), retries=1)
    assert [(verdict.outcome, verdict.reward) for verdict in found] == [(ERROR, 0.0)] * 2
    assert all(verdict.detail.startswith("http://127.0.0.1:") for verdict in found)
    assert (statistics.retried, statistics.replaced) == (2, 2)


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_a_dead_service_makes_errors_after_its_retries():
    verifier = RemoteVerifier(RemoteConfig(url=f"http://127.0.0.1:{closed_port()}", retries=2, batch_size=1))
    found, statistics = asyncio.run(score(MIXED[:2])(verifier))
    assert [verdict.outcome for verdict in found] == [ERROR] * 2
    assert "ClientConnectorError" in found[0].detail
    assert (statistics.retried, statistics.replaced) == (4, 6)


def test_a_service_that_does_not_answer_is_reported_with_its_url():
    url = f"http://127.0.0.1:{closed_port()}"
    with pytest.raises(WorkerError, match=rf"verifier\.url={url}: {url}/health does not answer .*delta-verify serve"):
        asyncio.run(RemoteVerifier(RemoteConfig(url=url)).ready())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "JSONDecodeError"),
        (b"[]", "TypeError"),
        (b"{}", "KeyError: 'samples'"),
        (b'{"samples": [5]}', "a JSON int, not an object"),
        (b'{"samples": [{"response": "x"}]}', "no field 'answer'"),
        (b'{"samples": [{"response": "x", "tests": ' + b"[" * 100_000 + b"}]}", "RecursionError"),
    ],
)
def test_a_request_that_is_no_list_of_samples_is_refused_with_its_reason(supervisor, body, message):
    async def use(verifier: RemoteVerifier):
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{verifier._config.url}/score", data=body) as reply,
        ):
            return reply.status, (await reply.json())["error"]

    code, error = with_server(ScoringService(supervisor, max_waiting=10).application(), use)
    assert code == 400
    assert message in error


def test_a_remote_verifier_takes_no_reward_parts():
    reward = RewardConfig(parts={"style": PartConfig(function="delta.rewards.parts.format")})
    with pytest.raises(ConfigError, match=r"reward has the parts style and the verifier is remote"):
        verifier_for(RemoteConfig(url="http://127.0.0.1:1"), reward)
    assert isinstance(verifier_for(RemoteConfig(url="http://127.0.0.1:1"), RewardConfig()), RemoteVerifier)


def test_a_url_is_needed():
    with pytest.raises(ConfigError, match=r"verifier\.url is empty"):
        RemoteVerifier(RemoteConfig())
    with pytest.raises(ValueError, match=r"verifier\.url=10\.0\.0\.7:8000: expected http://HOST:PORT"):
        RemoteConfig(url="10.0.0.7:8000")
