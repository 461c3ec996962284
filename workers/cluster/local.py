"""A Ray for one run: started for it, reachable from this host only, gone with it."""

import contextlib
import functools
import logging
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from workers.cluster.config import ClusterConfig
from workers.processes import wait_until_gone
from workers.signals import Ended, handlers_kept, undisturbed

RECONNECT = "RAY_gcs_rpc_server_reconnect_timeout_s"


@functools.cache
def _token() -> str:
    """The secret of this process's clusters; one for all of them, because Ray remembers the first it was given."""
    return secrets.token_hex(32)


def _descendants(folder: Path) -> list[psutil.Process]:
    """The processes of the cluster in `folder`: those that name it, and all that they started."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if str(folder) in " ".join(child.cmdline()):
                found += [child, *child.children(recursive=True)]
    return found


@contextlib.contextmanager
def local_cluster(config: ClusterConfig, *, log_folder: Path) -> Iterator[None]:
    """Start Ray for this run and end it, and all its processes and files, on the way out.

    Ray's logs are moved to `log_folder` when the run fails; they are of no use otherwise.
    """
    import ray  # here, because configurations are checked long before anybody needs a cluster

    # Ray puts sockets there, whose paths must be short, so it cannot be the run folder.
    folder = Path(tempfile.mkdtemp(prefix="delta-ray-"))
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(_token())
    # A token of the run's own: Ray would otherwise write one into the user's home, or run without any.
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # How long Ray's helpers look for a cluster whose driver was killed before they end; the default is a minute, which
    # the driver itself keeps: were Ray killed, it would not get far with its own end in less. Ray's processes are given
    # `os.environ`; its code in this process asks the C library, which is made to forget it again.
    os.environ.setdefault(RECONNECT, "5")
    os.unsetenv(RECONNECT)
    failed = True
    try:
        with handlers_kept():
            try:
                ray.init(
                    address="local",
                    num_cpus=config.num_cpus,
                    num_gpus=config.num_gpus,
                    object_store_memory=config.object_store_mib * 2**20,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _temp_dir=str(folder),
                )
            except SystemExit as error:  # how Ray answers SIGTERM while it starts
                raise Ended(signal.SIGTERM) from error
        yield
        failed = False
    finally:
        with undisturbed():
            started = _descendants(folder)
            ray.shutdown()
            wait_until_gone(started)
            if failed:
                with contextlib.suppress(OSError):
                    shutil.copytree(folder / "session_latest" / "logs", log_folder, dirs_exist_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
