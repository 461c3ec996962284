"""A run in bfloat16: engine and learner agree within what the precision allows, and the policy is trained."""

import math

import pytest

from tests.conftest import TINY, Train
from workers.controller.metrics import JsonLines


@pytest.mark.slow
@pytest.mark.ray
def test_a_run_in_bfloat16(train: Train, tmp_path):
    train(*TINY, "model.dtype=bfloat16", "steps=2", "evaluation.every=2", f"run_dir={tmp_path}", check=True)
    rows = JsonLines(tmp_path / "metrics.jsonl").rows()
    assert len(rows) == 2
    for row in rows:
        # Beyond what is tolerated in float32, so the limit did follow the precision.
        assert 1e-3 < row["policy/mismatch_max"] < 0.5
        assert math.isfinite(row["learner/grad_norm"])
