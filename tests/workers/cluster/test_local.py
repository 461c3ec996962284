"""The Ray of a run belongs to the run."""

import contextlib
from collections.abc import Iterator

import psutil
import pytest

RAYS_OWN = ("gcs_server", "raylet", "ray::DashboardAgent", "ray::RuntimeEnvAgent")


def sockets_that_listen() -> Iterator[tuple[str, str]]:
    """Name and address, of Ray's own processes below this one."""
    for process in psutil.Process().children(recursive=True):
        # Idle workers come and go while we look.
        with contextlib.suppress(psutil.NoSuchProcess):
            name = process.name()
            if not name.startswith(RAYS_OWN):
                continue
            for connection in process.net_connections("inet"):
                if connection.status == psutil.CONN_LISTEN:
                    yield name, connection.laddr.ip


@pytest.mark.ray
def test_nobody_outside_this_host_can_connect(ray_cluster):
    listening = list(sockets_that_listen())
    assert {"gcs_server", "raylet"} <= {name for name, _ in listening}
    assert {address.removeprefix("::ffff:") for _, address in listening} == {"127.0.0.1"}
