"""The Ray cluster of a run: one of its own on this host, or one that somebody else started on several."""

from workers.cluster.choice import check_cluster, cluster
from workers.cluster.config import ClusterConfig
from workers.cluster.local import local_cluster

__all__ = ["ClusterConfig", "check_cluster", "cluster", "local_cluster"]
