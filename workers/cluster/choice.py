"""Which Ray a run works on: the one that RAY_ADDRESS names, or one of its own."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from delta.errors import ConfigError
from workers.cluster.attached import attached_cluster
from workers.cluster.config import ClusterConfig
from workers.cluster.local import local_cluster
from workers.cluster.nodes import RAY_ADDRESS


def check_cluster(config: ClusterConfig, *, nodes: int) -> None:
    """Refuse what there is no Ray for, before anything is started.

    Args:
        config: The chosen kind of cluster.
        nodes: How many the run wants.

    Raises:
        ConfigError: Several nodes, or a scheduler's, without a Ray on them.
    """
    if address := os.environ.get(RAY_ADDRESS):
        if "://" in address or ":" not in address:
            raise ConfigError(
                f"{RAY_ADDRESS}={address}: expected HOST:PORT of a Ray head, on a node of which this command runs. "
                "Unset it to run here."
            )
    elif type(config) is not ClusterConfig:
        raise ConfigError(
            f"cluster is one that jobs are submitted to ({type(config).__name__}), and {RAY_ADDRESS} is not set, so "
            "there is no Ray to run on. Submit the run with the same settings: delta-submit ...; or run here with "
            "cluster=local."
        )
    elif nodes > 1:
        raise ConfigError(
            f"nodes={nodes} with cluster=local, which is this host: expected nodes=1. Submit the run to a cluster "
            f"(delta-submit cluster=slurm ...), or start Ray on the nodes and set {RAY_ADDRESS} to its HOST:PORT."
        )


@contextlib.contextmanager
def cluster(config: ClusterConfig, *, nodes: int, timeout_s: float, log_folder: Path) -> Iterator[None]:
    """Connect to the Ray of the run while the block lasts.

    Args:
        config: The chosen kind of cluster.
        nodes: To wait for, where Ray is there already.
        timeout_s: How long.
        log_folder: Where the logs of a Ray of its own go when the run fails.

    Raises:
        ConfigError: There is no such Ray.
        MissingNodesError: It has too few nodes.
    """
    check_cluster(config, nodes=nodes)
    if address := os.environ.get(RAY_ADDRESS):
        with attached_cluster(address, nodes=nodes, num_gpus=config.num_gpus, timeout_s=timeout_s):
            yield
    else:
        with local_cluster(config, log_folder=log_folder):
            yield
