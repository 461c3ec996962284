"""The benchmark runs, and its layouts are the same work."""

import argparse

import pytest
import torch

from tests.bench.conftest import report_of
from tests.bench.learner_passes import LAYOUTS, PEAK_FLOPS, QUICK, make_batch, make_policy, micro_batches


def test_all_layouts_compute_the_same_tokens() -> None:
    options = argparse.Namespace(**QUICK, prompt=8, seed=0, device="cpu", dtype="float32")
    policy, batch = make_policy(options), make_batch(options)
    sums = []
    for layout in LAYOUTS:
        parts = micro_batches(batch, layout, options.token_budget, policy.attention_length)
        with torch.no_grad():
            log_probs = torch.cat([policy(part).log_probs for part in parts])
        assert len(log_probs) == batch.response_lengths.sum()
        sums.append(log_probs.sort().values)
    for other in sums[1:]:
        torch.testing.assert_close(other, sums[0])


@pytest.mark.slow
def test_bench_prints_passes_and_peaks_as_json() -> None:
    report = report_of("learner_passes", "--quick")
    passes = report["passes"]
    assert passes["computed_tokens"]["packed"] == passes["tokens"] - report["settings"]["rows"]
    assert passes["computed_tokens"]["packed"] < passes["computed_tokens"]["padded_sorted"]
    for name in ("old_pass", "update"):
        assert passes[f"{name}/packed"]["tokens_per_s"] > 0
        assert passes[f"{name}/packed_over_padded"]["median"] > 0
    assert report["lm_head"]["whole_over_chunked"] > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_bench_reports_the_use_of_a_gpu_we_know() -> None:
    report = report_of("learner_passes", "--quick", "--device", "cuda", "--dtype", "bfloat16")
    if any(name in report["machine"]["gpu"] for name in PEAK_FLOPS):
        assert 0 < report["passes"]["update/packed"]["mfu"] < 1
