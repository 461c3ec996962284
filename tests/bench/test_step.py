"""The benchmark runs and prints what the documentation quotes."""

import pytest

from launch.report import PHASES
from tests.bench.conftest import report_of
from tests.conftest import TINY


@pytest.mark.ray
@pytest.mark.slow
def test_bench_prints_phases_of_both_credits_as_json():
    report = report_of("step", "--steps", "2", *TINY)
    for credit in ("discriminative", "uniform"):
        assert report[credit]["step"]["median_s"] > 0
        assert set(report[credit]["phases"]) == set(PHASES)
    assert report["discriminative_over_uniform"]["paired_step_ratio_median"] > 0
    assert report["shape"]["updates"] == 2
