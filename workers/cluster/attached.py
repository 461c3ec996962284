"""A Ray that somebody else started, on one node or many: used by the run, and left to its owner."""

import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Iterator

from delta.errors import ConfigError, MissingNodesError
from workers.cluster.nodes import Node, describe, listed
from workers.signals import Ended, handlers_kept, undisturbed

POLL_S = 0.5
"""How often Ray is asked who is there."""
HEAD_S = 30.0
"""How long the head may take to listen; whoever starts it starts it before the driver."""


@contextlib.contextmanager
def attached_cluster(address: str, *, nodes: int, num_gpus: int, timeout_s: float) -> Iterator[None]:
    """Connect to the Ray at `address`, and leave it on the way out; it goes on without us.

    Raises:
        ConfigError: No Ray answers there, or it refuses us.
        MissingNodesError: It does not have `nodes` nodes within `timeout_s`.
    """
    import ray  # here, because configurations are checked long before anybody needs a cluster

    _await_head(address, timeout_s=min(timeout_s, HEAD_S))
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with handlers_kept():
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except SystemExit as error:  # how Ray answers SIGTERM while it connects
            raise Ended(signal.SIGTERM) from error
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise _no_ray(address, error) from error
    try:
        await_nodes(nodes, num_gpus=num_gpus, timeout_s=timeout_s)
        yield
    finally:
        with undisturbed():
            ray.shutdown()  # ends this driver's actors, if there are any left


def _await_head(address: str, *, timeout_s: float) -> None:
    """Wait until somebody listens there: where nobody does, Ray ends this process with hardly a word."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=POLL_S).close()
            return
        except (OSError, ValueError) as error:
            if time.monotonic() > deadline:
                raise _no_ray(address, error) from error
        time.sleep(POLL_S)


def _no_ray(address: str, error: BaseException) -> ConfigError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ConfigError(
        f"RAY_ADDRESS={address}: no Ray to work with ({reason}). Expected a Ray head there, a node of it on this host, "
        "and its token in the file that RAY_AUTH_TOKEN_PATH names. Unset RAY_ADDRESS to run here."
    )


def await_nodes(count: int, *, num_gpus: int, timeout_s: float) -> list[Node]:
    """Wait until so many nodes are there.

    Raises:
        MissingNodesError: They are not within `timeout_s`; the message says who is.
    """
    deadline = time.monotonic() + timeout_s
    while len(nodes := listed(num_gpus=num_gpus)) < count:
        if time.monotonic() > deadline:
            others = [node for node in listed() if node not in nodes]
            lacking = f" Without the {num_gpus} GPUs that each needs: {describe(others)}." if others else ""
            raise MissingNodesError(
                f"{len(nodes)} of {count} nodes joined the Ray cluster within {timeout_s:g} s: {describe(nodes)}."
                f"{lacking} Look into the logs of the nodes that are missing; the same command starts again."
            )
        time.sleep(POLL_S)
    return nodes
