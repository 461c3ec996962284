"""The nodes of a crew are those that answer and see the files; too few of them end the run with their names."""

import asyncio

import pytest

from delta.errors import ConfigError, MissingNodesError
from workers.cluster import ClusterConfig
from workers.controller import roster
from workers.controller.config import FaultsConfig, TrainConfig
from workers.controller.roster import Roster
from workers.deadlines import DeadlinesConfig

pytestmark = pytest.mark.ray


def stations(run_dir, *, model_path="hub/name", said=None, **settings):
    config = TrainConfig(faults=FaultsConfig(deadlines=DeadlinesConfig(start_s=60.0)), **settings)
    found = Roster(config, model_path=str(model_path), run_dir=run_dir, say=(said or []).append)
    return asyncio.run(found.stations())


@pytest.fixture
def attached(ray_cluster, monkeypatch):
    """As if somebody else had started it."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")


def test_the_survivors_of_a_cluster_on_cpus_take_all(attached, tmp_path):
    said = ["x"]
    (only,) = stations(tmp_path, nodes=2, said=said)
    assert (only.share.learner_ranks, only.share.engines) == ((0, 1), (0,))
    assert "1 of 2 nodes" in said[-1]
    assert "learner ranks 0-1, rollout workers 0" in said[-1]
    assert list(tmp_path.iterdir()) == []


def test_without_gpus_enough_the_run_ends_with_what_is_missing(attached, tmp_path, monkeypatch):
    monkeypatch.setattr(DeadlinesConfig, "__post_init__", lambda self: None)
    config = TrainConfig(
        nodes=2, cluster=ClusterConfig(num_gpus=4), faults=FaultsConfig(deadlines=DeadlinesConfig(start_s=0.5))
    )
    with pytest.raises(MissingNodesError, match=r"0 of 2 nodes answer \(none\).*started again"):
        asyncio.run(Roster(config, model_path="hub/name", run_dir=tmp_path, say=print).stations())


def test_a_node_without_the_model_is_named_with_the_path(attached, tmp_path, monkeypatch):
    monkeypatch.setattr(roster, "VISIBLE_S", 0.1)
    (tmp_path / "model").mkdir()
    with pytest.raises(ConfigError, match=r"\(127\.0\.0\.1\): .*/model/config\.json is not there.*DELTA_CACHE"):
        stations(tmp_path, model_path=tmp_path / "model")
