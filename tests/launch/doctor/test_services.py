"""Services that are not there, and keys that are not: on the loopback device, so that no test needs a network."""

import contextlib
import socket

import huggingface_hub.constants
import pytest

from launch.doctor import services
from launch.doctor.check import Status
from tests.launch.test_conf import composed

SECRET = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def listening():
    """URL of somebody who accepts connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def nobody():
    """URL of a port that nobody listens on."""
    with contextlib.closing(socket.socket()) as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture
def no_keys(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "NETRC", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_wandb_without_network_needs_nothing(no_keys):
    assert services.wandb(composed("logger.wandb=disabled")).status is Status.skipped
    assert services.wandb(composed("logger.wandb=offline")).status is Status.ok


def test_wandb_online_needs_a_key_that_is_never_shown(no_keys, listening, monkeypatch):
    online = composed("logger.wandb=online")
    monkeypatch.setenv("WANDB_BASE_URL", listening)
    found = services.wandb(online)
    assert found.status is Status.warning  # a run goes on without
    assert "WANDB_API_KEY" in found.expected
    (no_keys / ".netrc").write_text(f"machine 127.0.0.1\n  login user\n  password {SECRET}\n")
    (no_keys / ".netrc").chmod(0o600)
    logged_in = services.wandb(online)
    (no_keys / ".netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    by_variable = services.wandb(online)
    assert (logged_in.status, by_variable.status) == (Status.ok, Status.ok)
    assert SECRET not in f"{logged_in} {by_variable}"


def test_wandb_that_cannot_be_reached(no_keys, nobody, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setenv("WANDB_BASE_URL", nobody)
    found = services.wandb(composed("logger.wandb=online"))
    assert found.status is Status.warning
    assert "Connection refused" in found.seen


def test_a_model_of_the_hub_needs_the_hub_or_the_cache(no_keys, listening, nobody, monkeypatch):
    named = composed("model=pretrained", "model.path=some/model")
    cache = no_keys / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", nobody)
    assert "Connection refused" in services.hub(named).seen
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", listening)
    assert services.hub(named).status is Status.ok
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in services.hub(named).seen
    assert services.hub(composed()).status is Status.skipped
    assert services.hub(composed("model=pretrained", "model.path=./nowhere")).status is Status.skipped


def test_a_cached_model_needs_no_hub(no_keys, nobody, monkeypatch):
    snapshot = no_keys / "hub" / "models--some--model" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    refs = snapshot.parent.parent / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(no_keys / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", nobody)
    assert "in the cache" in services.hub(composed("model=pretrained", "model.path=some/model")).seen


def test_a_scoring_service_must_listen(listening, nobody):
    assert services.scoring_service(composed()).status is Status.skipped
    assert services.scoring_service(composed("verifier=remote")).status is Status.failed
    assert services.scoring_service(composed("verifier=remote", f"verifier.url={nobody}")).status is Status.failed
    assert services.scoring_service(composed("verifier=remote", f"verifier.url={listening}")).status is Status.ok
