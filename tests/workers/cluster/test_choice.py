"""A run works on the Ray that it is given, or on one of its own; where it has neither it says what to do."""

import pytest

from delta.errors import ConfigError
from launch.submit.slurm.config import SlurmConfig
from workers.cluster import ClusterConfig, check_cluster


@pytest.fixture(autouse=True)
def no_ray(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_a_schedulers_cluster_without_a_ray_names_the_command_that_submits():
    with pytest.raises(ConfigError, match=r"SlurmConfig.*RAY_ADDRESS is not set.*delta-submit"):
        check_cluster(SlurmConfig(), nodes=1)


def test_this_host_is_one_node():
    check_cluster(ClusterConfig(), nodes=1)
    with pytest.raises(ConfigError, match=r"nodes=2 with cluster=local.*expected nodes=1.*delta-submit"):
        check_cluster(ClusterConfig(), nodes=2)


def test_with_a_ray_any_cluster_will_do(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    check_cluster(SlurmConfig(), nodes=4)
    check_cluster(ClusterConfig(), nodes=4)


@pytest.mark.parametrize("address", ["ray://10.0.0.1:10001", "auto"])
def test_an_address_must_be_that_of_a_head(monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError, match=rf"RAY_ADDRESS={address}: expected HOST:PORT"):
        check_cluster(ClusterConfig(), nodes=1)
