"""Engines get the ranks of a transfer group, one for each of their processes, and the version of what they are sent."""

from typing import Any

import pytest
import ray

from workers.weights.client import RolloutWorkersClient

pytestmark = pytest.mark.ray


@ray.remote(num_cpus=0)
class Engine:
    def __init__(self) -> None:
        self.told: list[Any] = []

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self.told.append(init_info)

    def finish_weight_update(self, weight_version: str) -> None:
        self.told.append(weight_version)

    def all(self) -> list[Any]:
        return self.told


@pytest.mark.parametrize("processes", [1, 4])
def test_engines_do_not_share_ranks(ray_cluster: None, processes: int) -> None:
    engines = [Engine.remote() for _ in range(3)]  # type: ignore[attr-defined]
    client = RolloutWorkersClient(engines, timeout_s=60, processes_per_engine=processes)
    client.init_weight_transfer_engine({"rank_offset": 1, "world_size": 1 + 3 * processes})
    client.version = 7
    client.finish_weight_update()
    told = ray.get([engine.all.remote() for engine in engines])
    ranks = [first["rank_offset"] + place for first, _ in told for place in range(processes)]
    assert ranks == list(range(1, 1 + 3 * processes))
    assert [version for _, version in told] == ["7"] * 3
    for engine in engines:
        ray.kill(engine)
