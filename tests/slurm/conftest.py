"""One Slurm for all tests of a session."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.slurm.cluster import SlurmCluster, missing, slurm_cluster


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A real Slurm with two emulated hosts; they share with us the sources, the environment and pytest's folders."""
    if reason := missing():
        if os.environ.get("DELTA_REQUIRE_SLURM") == "1":
            pytest.fail(f"DELTA_REQUIRE_SLURM=1, but there can be no Slurm here: {reason}")
        pytest.skip(f"no Slurm: {reason}")
    with slurm_cluster(shared=[tmp_path_factory.getbasetemp(), ROOT, Path(sys.prefix)]) as cluster:
        yield cluster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("slurm")
