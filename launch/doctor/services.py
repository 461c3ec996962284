"""Services beyond the cluster: Weights & Biases, the Hugging Face hub, a scoring service. No key is ever shown."""

import netrc
import os
import socket
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from launch.doctor.check import Finding, failed, ok, skipped, warning
from workers.controller.config import TrainConfig
from workers.controller.metrics import WandbMode
from workers.verifier.config import RemoteConfig
from workers.warm_start.config import PretrainedModelConfig

CONNECT_S = 5.0
WANDB = "https://api.wandb.ai"


def wandb(config: TrainConfig) -> Finding:
    """Online it needs a key and a server; whatever goes wrong there, the run goes on."""
    mode = config.logger.wandb
    if mode is WandbMode.disabled:
        return skipped("logger.wandb=disabled")
    if mode is WandbMode.offline:
        return ok("offline: metrics stay in the run folder; wandb sync uploads them")
    server = os.environ.get("WANDB_BASE_URL", WANDB)
    host = urlsplit(server).hostname or server
    if not (os.environ.get("WANDB_API_KEY") or _in_netrc(host)):
        return warning(
            f"logger.wandb=online, and there is no key for {host}",
            expected="WANDB_API_KEY, or wandb login",
            remedy="Log in, or set logger.wandb=offline. Without, the run goes on and wandb is switched off.",
        )
    if trouble := _unreachable(server):
        return warning(
            f"{host}: {trouble}",
            expected="a server that can be reached",
            remedy="Set logger.wandb=offline here, and upload later with wandb sync.",
        )
    return ok(f"online: a key is there, and {host} can be reached")


def hub(config: TrainConfig) -> Finding:
    """A model that is named, and not on disk, has to come from the cache or the hub."""
    from huggingface_hub import constants, get_token, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    model = config.model
    if not isinstance(model, PretrainedModelConfig) or not model.path or Path(model.path).exists():
        return skipped("the model is on this machine")
    try:
        cached = isinstance(try_to_load_from_cache(model.path, "config.json"), str)
    except HFValidationError:
        return skipped("model.path is no name on the hub")
    token = "with a token" if get_token() else "without a token (HF_TOKEN)"
    if cached:
        return ok(f"{model.path} is in the cache, {constants.HF_HUB_CACHE}")
    if constants.HF_HUB_OFFLINE:
        return failed(
            f"{model.path} is not in the cache, {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE is set",
            expected="the model on disk",
            remedy="Fetch it where there is network (hf download), or name a folder in model.path.",
        )
    if trouble := _unreachable(constants.ENDPOINT):
        return failed(
            f"{constants.ENDPOINT}: {trouble}; {model.path} is not in the cache",
            expected="the hub, or the model on disk",
            remedy="Fetch it where there is network (hf download), or name a folder in model.path.",
        )
    return ok(f"{constants.ENDPOINT} can be reached, {token}")


def scoring_service(config: TrainConfig) -> Finding:
    """Somebody listens where answers are to be scored."""
    if not isinstance(config.verifier, RemoteConfig):
        return skipped("verifier=pool: answers are scored by the run itself")
    url = config.verifier.url
    if not url:
        return failed("verifier.url is empty", expected="http://HOST:PORT", remedy="Start one: delta-verify serve=...")
    if trouble := _unreachable(url):
        return failed(
            f"{url}: {trouble}", expected="a service that listens", remedy="Start it: delta-verify serve=HOST:PORT."
        )
    return ok(f"{url} can be reached")


def _in_netrc(host: str) -> bool:
    """Whether `wandb login` left a key."""
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _unreachable(url: str) -> str | None:
    """Why no connection can be made, through the proxy if one is set; None if it can."""
    target = urlsplit(url)
    proxy = getproxies().get(target.scheme)
    if proxy and not proxy_bypass(target.hostname or ""):
        target = urlsplit(proxy)
    port = target.port or (443 if target.scheme == "https" else 80)
    try:
        socket.create_connection((target.hostname or "", port), timeout=CONNECT_S).close()
    except OSError as error:
        return f"{target.hostname}:{port}: {error.strerror or error}"
    return None
