"""One finished run for all tests that compare others with it."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT, command
from tests.integration.runs import RUN


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished run, that others are compared with."""
    run_dir = tmp_path_factory.mktemp("run") / "uninterrupted"
    finished = subprocess.run(
        command([*RUN, "logger.wandb=offline", "logger.tensorboard=true", f"run_dir={run_dir}"]),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,  # the warm start of the laptop run is in it, and machines are shared
        env={**os.environ, "DELTA_TEST_RUN": str(run_dir)},
    )
    assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-3000:]
    (run_dir / "output.txt").write_text(finished.stdout)
    return run_dir
