"""The benchmark runs and prints what the documentation quotes."""

import json
import subprocess
import sys

import pytest

from launch.report import PHASES
from tests.conftest import ROOT, TINY


@pytest.mark.ray
@pytest.mark.slow
def test_bench_prints_phases_of_both_credits_as_json():
    finished = subprocess.run(
        [sys.executable, "-m", "tests.bench.step", "--steps", "2", *TINY, "rollout.num_workers=1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    report = json.loads(finished.stdout)
    for credit in ("discriminative", "uniform"):
        assert report[credit]["step"]["median_s"] > 0
        assert set(report[credit]["phases"]) == set(PHASES)
    assert report["discriminative_over_uniform"]["paired_step_ratio_median"] > 0
    assert report["shape"]["updates"] == 2
