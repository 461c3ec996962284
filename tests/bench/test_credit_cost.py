"""The cost benchmark compares like with like: every way gives the coefficients that it should, in full sizes."""

import dataclasses
import time

import numpy as np
import pytest
import torch

from delta.credit import RowProxy, estimate_credit
from tests.bench.conftest import report_of
from tests.bench.credit_variants import GROUP, VARIANTS, Bench, Setting, measure
from tests.bench.extra_passes import extra_passes

TINY = Setting(
    hidden=32,
    layers=1,
    vocabulary=40,
    row_length=12,
    prompt_length=4,
    micro_batch_tokens=60,
    device="cpu",
    cache_dtype="model",
    refinements=1,
    repeats=2,
    max_model_tokens=100,
    max_credit_s=10.0,
    threads=torch.get_num_threads(),
    clock="wall",
    seed=0,
)


@pytest.fixture
def bench() -> Bench:
    return Bench(TINY, 1_000)


def test_batch_has_the_size_asked_for_and_an_advantage_everywhere(bench):
    assert abs(bench.tokens - 1_000) < GROUP * (TINY.row_length - TINY.prompt_length)
    assert set(np.sign(bench.batch.advantages)) == {-1.0, 1.0}


def test_model_tokens_are_limited_and_spread(bench):
    assert bench.found.model_tokens <= TINY.max_model_tokens
    assert len(bench.parts) == 2
    middle = 5 * 13  # a micro-batch holds five rows, and there are 26 of them
    assert bench.batch.rows == 128
    assert (
        bench.parts[1].micro_batch.token_ids[0].tolist()
        == bench.batch.token_ids[middle * 12 : middle * 12 + 11].tolist()
    )


@pytest.mark.parametrize("refinements", [0, 1, 2])
def test_extra_passes_give_the_coefficients_of_the_row_proxy(bench, refinements):
    coefficients, seconds = extra_passes(
        bench.policy, bench.parts, clock=time.perf_counter, refinements=refinements, lambda_min=0.8, lambda_max=1.2
    )
    space = RowProxy()
    for part in bench.parts:
        old = bench.old_pass(part)
        space.append(old.hidden, old.log_probs, part.micro_batch.targets, part.advantages)
    expected = estimate_credit(space, neutral_tokens=0, refinements=refinements)
    torch.testing.assert_close(coefficients, expected.coefficients, rtol=0, atol=1e-4)
    assert coefficients.std() > 0.01
    assert len(seconds) == 3 + refinements


@pytest.mark.parametrize(("stored", "size"), [("model", 4), ("bfloat16", 2)])
@pytest.mark.parametrize("variant", ["row", "last_layer"])
def test_credit_is_measured_at_the_full_size(variant, stored, size):
    setting = dataclasses.replace(TINY, cache_dtype=stored)
    found = measure(setting, 1_000, variant)
    assert found.cache_bytes == found.tokens * TINY.hidden * size
    assert len(found.credit_s["credit"]) == TINY.repeats
    assert len(found.coefficients) == found.model_tokens < found.tokens


@pytest.mark.slow
def test_credit_cost_prints_all_variants_as_json():
    report = report_of("credit_cost", "--quick", "--threads", "1", "--clock", "cpu")
    assert [size["size"] for size in report["sizes"]] == [1_000, 10_000]
    for size in report["sizes"]:
        assert size["model_tokens_timed"] <= size["response_tokens"] == size["credit_tokens_timed"]
        assert size["uniform"]["step_s"] > 0
        for variant in VARIANTS:
            assert size[variant]["peak_memory_mib"] > 0
        for variant in VARIANTS[1:]:
            assert size[variant]["over_uniform"] > 1
        assert size["coefficients"]["row_to_extra_passes_max_difference"] < 1e-3
        assert size["goal_met"] is None  # the goal is for larger ones
    assert set(report["growth"]) == set(VARIANTS[1:])
    assert report["goal"]["cost_met"] is None
