"""Means, errors, crossings and p-values against numbers worked by hand, NumPy, or all patterns one by one."""

from itertools import product
from math import sqrt

import numpy as np
import pytest

from delta.errors import DataError
from launch.statistics import (
    MAX_PAIRS,
    Measured,
    Run,
    estimate,
    last_quarter,
    paired_difference,
    running_mean,
    sign_flip_p_value,
    steps_to_threshold,
    summarize,
    unequal,
)


def run(method: str, seed: int, **fields) -> Run:
    measured = [Measured(8, fields.pop("greedy_accuracy", 0.5), fields.pop("sampled_accuracy", 0.5))]
    defaults = {"folder": f"{method}/seed{seed}", "rewards": [0.5] * 8, "measured": measured}
    return Run(method=method, seed=seed, **(defaults | fields))


def test_estimate_is_mean_and_sample_deviation_over_root_n():
    known = estimate([1.0, 2.0, 3.0, 6.0])
    assert known.mean == 3.0
    assert known.standard_error == pytest.approx(sqrt(14 / 3) / 2)  # squares 4 + 1 + 0 + 9
    assert known.n == 4


def test_one_value_has_no_error_and_none_no_mean():
    assert (estimate([0.7]).mean, estimate([0.7]).standard_error) == (0.7, None)
    assert (estimate([]).mean, estimate([]).standard_error, estimate([]).n) == (None, None, 0)


def test_running_mean_has_full_windows_only():
    values = np.random.default_rng(1).random(12)
    assert running_mean(values, window=5) == pytest.approx(np.convolve(values, np.ones(5) / 5, mode="valid"))
    assert running_mean([1.0, 2.0], window=5) == []


@pytest.mark.parametrize(("steps", "kept"), [(60, 15), (8, 2), (7, 1), (3, 1), (1, 1)])
def test_last_quarter_keeps_at_least_one_step(steps, kept):
    assert last_quarter(list(range(steps))) == list(range(steps - kept, steps))


def test_threshold_is_reached_by_the_mean_of_a_full_window():
    ramp = [step / 10 for step in range(1, 11)]  # mean of the last five at step t: (t - 2) / 10
    assert steps_to_threshold(ramp, threshold=0.6, window=5) == 8
    assert steps_to_threshold(ramp, threshold=0.61, window=5) == 9
    assert steps_to_threshold(ramp, threshold=0.81, window=5) is None
    assert steps_to_threshold([1.0] * 5, threshold=0.75, window=5) == 5  # not 1: one lucky step is no window
    assert steps_to_threshold([1.0] * 4, threshold=0.75, window=5) is None


def test_a_mean_equal_to_the_threshold_reaches_it_whatever_the_rounding():
    values = [0.1, 0.2, 0.3]
    assert steps_to_threshold(values, threshold=0.2, window=3) == 3
    assert steps_to_threshold([0.7, 0.8, 0.75, 0.65, 0.85], threshold=0.75, window=5) == 5


def test_sign_flip_p_values_worked_by_hand():
    assert sign_flip_p_value([0.3]) == 1.0
    assert sign_flip_p_value([1.0, 2.0]) == 0.5
    assert sign_flip_p_value([1.0, 2.0, -4.0]) == 1.0  # |-1| is the smallest of 1, 3, 5, 7
    assert sign_flip_p_value([3.0, 2.0, -1.0]) == 0.5  # 6, 4, 2 and 0 are possible; 4 is seen
    assert sign_flip_p_value([0.0, 0.0, 0.0]) == 1.0


@pytest.mark.parametrize("n", range(1, 9))
def test_sign_flip_p_value_is_the_share_of_patterns_at_least_as_far_from_zero(n):
    for seed in range(5):
        differences = np.random.default_rng(seed).integers(-6, 9, size=n)  # whole numbers: many exact ties
        sums = [
            abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in product((1, -1), repeat=n)
        ]
        expected = sum(value >= abs(differences.sum()) for value in sums) / 2**n
        assert sign_flip_p_value(list(differences)) == expected
        assert sign_flip_p_value(list(differences / 70)) == expected  # ties survive rounding
        assert sign_flip_p_value(list(-differences)) == expected


@pytest.mark.parametrize(("n", "smallest"), [(3, 0.25), (5, 0.0625), (6, 0.03125)])
def test_smallest_p_value_is_two_patterns(n, smallest):
    assert sign_flip_p_value([0.1 + place / 100 for place in range(n)]) == smallest


def test_too_many_pairs_are_refused_before_memory_is():
    with pytest.raises(DataError, match="25 pairs"):
        sign_flip_p_value([0.1] * (MAX_PAIRS + 1))


def test_paired_difference_uses_common_seeds_only():
    paired = paired_difference({1: 0.9, 2: 0.7, 3: 0.8, 9: 0.0}, {3: 0.5, 1: 0.5, 2: 0.6, 7: 1.0})
    assert paired.seeds == (1, 2, 3)
    assert paired.difference.mean == pytest.approx(0.8 / 3)
    assert paired.difference.standard_error == pytest.approx(np.std([0.4, 0.1, 0.3], ddof=1) / sqrt(3))
    assert paired.p_value == 0.25


def test_no_common_seed_is_no_pair():
    paired = paired_difference({1: 0.9}, {2: 0.5})
    assert (paired.seeds, paired.difference.mean, paired.p_value) == ((), None, None)


def test_summary_puts_seeds_together_and_sorts_by_sampled_accuracy():
    slow, fast = [0.0] * 4 + [1.0] * 8, [1.0] * 12
    runs = [
        run("dapo", 2, sampled_accuracy=0.5, greedy_accuracy=0.9, rewards=[0.0] * 12),
        run("dapo", 1, sampled_accuracy=0.3, greedy_accuracy=0.7, rewards=slow),
        run("delta", 1, sampled_accuracy=0.6, rewards=fast),
        run("delta", 2, sampled_accuracy=0.7, rewards=slow),
    ]
    delta, dapo = summarize(runs, threshold=0.75, baseline="dapo")
    assert (delta.method, dapo.method, dapo.seeds) == ("delta", "dapo", (1, 2))
    assert dapo.sampled_accuracy.mean == pytest.approx(0.4)
    assert dapo.sampled_accuracy.standard_error == pytest.approx(0.1)
    assert dapo.greedy_accuracy.mean == pytest.approx(0.8)
    assert dapo.reward_area.mean == pytest.approx(8 / 24)
    assert dapo.reward_last_quarter.mean == pytest.approx(0.5)
    assert delta.steps_to_threshold.mean == (5 + 8) / 2
    assert delta.steps_to_threshold.standard_error == pytest.approx(1.5)
    assert delta.seeds_below_threshold == ()
    assert (dapo.steps_to_threshold.mean, dapo.steps_to_threshold.n) == (8.0, 1)
    assert dapo.seeds_below_threshold == (2,)
    assert delta.paired_sampled_accuracy.difference.mean == pytest.approx((0.3 + 0.2) / 2)
    assert delta.paired_sampled_accuracy.difference.standard_error == pytest.approx(0.05)
    assert delta.paired_sampled_accuracy.p_value == 0.5
    assert delta.paired_reward_area.difference.mean == pytest.approx((4 / 12 + 8 / 12) / 2)
    assert dapo.paired_sampled_accuracy is None
    assert summarize(runs, threshold=0.75, baseline=None)[0].paired_reward_area is None


def test_equal_budgets_need_no_warning_whatever_the_method():
    free = {
        "run_dir": 1,
        "label": 1,
        "credit.lambda_min": 1,
        "reward": 1,
        "rollout.max_refills": 1,
        "evaluation.every": 1,
        "resume_from": 1,
        "faults.grace_s": 1,
    }
    settings = [{name: f"{name}{method}" for name in free} | {"steps": 60} for method in "ab"]
    assert unequal([run("a", 1, settings=settings[0]), run("b", 1, settings=settings[1])]) == []


def test_unequal_budgets_methods_and_seeds_are_named():
    base = {"steps": 60, "rollout.group_size": 8, "credit.share": 0.1}
    runs = [
        run("a", 1, settings=base),
        run("a", 2, settings=base | {"credit.share": 0.2}),
        run("b", 1, settings=base | {"steps": 80, "rollout.group_size": 16, "data.path": "more"}),
    ]
    budgets, methods, seeds = unequal(runs)
    assert budgets.endswith("data.path (not set, more), rollout.group_size (8, 16), steps (60, 80)")
    assert "the runs of a are not one method, they differ in credit.share (0.1, 0.2)" in methods
    assert seeds.endswith("b lacks 2")
