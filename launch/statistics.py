"""Statistics of a sweep: runs reduced to a few numbers, methods to means over their seeds, pairs of runs to a test.

Numbers in, numbers out. Finding and reading the runs is `launch.sweep.runs`, showing the result `launch.sweep.report`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from delta.errors import DataError

WINDOW = 5
"""Steps in a running mean of the reward: the reward of one step is a mean over few problems."""
NEUTRAL = {
    "seed",
    "label",
    "run_dir",
    "sweep",
    "nodes",
    "resume",
    "resume_from",
    "dry_run",
    "logger",
    "evaluation",
    "checkpoint",
}
NEUTRAL |= {"faults", "cluster", "verifier"}
"""Settings, or groups of them, that decide neither budget nor method."""
METHOD = {"advantage", "credit", "surrogate", "aggregation", "importance", "regularization", "reward"}
METHOD |= {"rollout.max_refills"}
"""Those that make the method. All others must be equal for a fair comparison."""
MAX_PAIRS = 24
"""The exact test holds 2^n sums in memory: some hundred MiB for 24 pairs."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Held-out accuracy after some steps."""

    step: int
    greedy: float
    sampled: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What the comparison needs of a complete run."""

    folder: str
    method: str
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of `config.yaml`, by dotted name."""
    rewards: Sequence[float]
    """Mean reward of each training step."""
    measured: Sequence[Measured]
    """By step; the last is that after the last step."""
    hours: float = 0.0
    """GPU-hours, or CPU-hours without GPUs: seconds of training steps times what the run held; starting, measuring and
    steps that were lost and made again are not in it."""
    tokens: int = 0
    """Generated for training."""

    @property
    def final(self) -> Measured:
        """After the last step."""
        return self.measured[-1]

    @property
    def best(self) -> Measured:
        """Where sampled accuracy, the less noisy one, was highest first."""
        return max(self.measured, key=lambda measured: measured.sampled)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Mean over independent runs, and how well it is known."""

    mean: float | None
    """None without values."""
    standard_error: float | None
    """Sample deviation / sqrt(n); None below two values, which say nothing about their spread."""
    n: int
    """Values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """A method minus the baseline, seed by seed."""

    seeds: tuple[int, ...]
    """Those that both have; others are not used."""
    difference: Estimate
    p_value: float | None
    """Two-sided, exact, see `sign_flip_p_value`; None without a common seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """The runs of one method, put together."""

    method: str
    seeds: tuple[int, ...]
    sampled_accuracy: Estimate
    """Held out, after the last step; so is the next."""
    greedy_accuracy: Estimate
    best_sampled_accuracy: Estimate
    """Of all measurements of a run. A maximum over noisy values: it is above what the policy can do, the more so the
    more often it was measured."""
    best_greedy_accuracy: Estimate
    best_step: Estimate
    """Where sampled accuracy was best first."""
    hours: Estimate
    """Of a run; so are the tokens."""
    tokens: Estimate
    reward_last_quarter: Estimate
    """Mean reward of the last quarter of the steps."""
    reward_area: Estimate
    """Area under the reward curve, per step: the mean over all steps."""
    steps_to_threshold: Estimate
    """Over the seeds that reached it only; its `n` says how many did."""
    seeds_below_threshold: tuple[int, ...]
    """Those that did not: censored, and in no mean."""
    paired_sampled_accuracy: PairedDifference | None
    """None without a baseline, and for the baseline itself; so is the next."""
    paired_reward_area: PairedDifference | None


def summarize(runs: Sequence[Run], *, threshold: float, baseline: str | None) -> list[Method]:
    """Put the runs of each method together.

    Args:
        runs: At most one per method and seed.
        threshold: Of the running mean of the reward.
        baseline: Method that the others are paired with, by seed.

    Returns:
        Methods, best mean final sampled accuracy first.
    """
    by_method: dict[str, dict[int, Run]] = {}
    for run in sorted(runs, key=lambda run: (run.method, run.seed)):
        by_method.setdefault(run.method, {})[run.seed] = run

    def accuracies(method: str) -> dict[int, float]:
        return {seed: run.final.sampled for seed, run in by_method[method].items()}

    def areas(method: str) -> dict[int, float]:
        return {seed: float(np.mean(run.rewards)) for seed, run in by_method[method].items()}

    def over(values: Mapping[int, Run], value: Callable[[Run], float]) -> Estimate:
        return estimate([value(run) for run in values.values()])

    methods = []
    for name, seeds in by_method.items():
        reached = {
            seed: steps_to_threshold(run.rewards, threshold=threshold, window=WINDOW) for seed, run in seeds.items()
        }
        other = baseline if baseline != name else None
        methods.append(
            Method(
                method=name,
                seeds=tuple(seeds),
                sampled_accuracy=over(seeds, lambda run: run.final.sampled),
                greedy_accuracy=over(seeds, lambda run: run.final.greedy),
                best_sampled_accuracy=over(seeds, lambda run: run.best.sampled),
                best_greedy_accuracy=over(seeds, lambda run: max(measured.greedy for measured in run.measured)),
                best_step=over(seeds, lambda run: run.best.step),
                hours=over(seeds, lambda run: run.hours),
                tokens=over(seeds, lambda run: run.tokens),
                reward_last_quarter=over(seeds, lambda run: float(np.mean(last_quarter(run.rewards)))),
                reward_area=estimate(list(areas(name).values())),
                steps_to_threshold=estimate([step for step in reached.values() if step is not None]),
                seeds_below_threshold=tuple(seed for seed, step in reached.items() if step is None),
                paired_sampled_accuracy=paired_difference(accuracies(name), accuracies(other)) if other else None,
                paired_reward_area=paired_difference(areas(name), areas(other)) if other else None,
            )
        )
    return sorted(methods, key=lambda method: -(method.sampled_accuracy.mean or 0.0))


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and standard error, sample deviation / sqrt(n), of independent values."""
    n = len(values)
    return Estimate(
        mean=float(np.mean(values)) if n else None,
        standard_error=float(np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else None,
        n=n,
    )


def last_quarter(values: Sequence[float]) -> Sequence[float]:
    """The last len // 4 values, at least one."""
    return values[-max(len(values) // 4, 1) :]


def running_mean(values: Sequence[float], *, window: int) -> list[float]:
    """Mean of the last `window` values, from the first place that has so many: len - window + 1 means."""
    return [float(np.mean(values[end - window : end])) for end in range(window, len(values) + 1)]


def steps_to_threshold(values: Sequence[float], *, threshold: float, window: int) -> int | None:
    """First step at which the running mean reaches the threshold.

    Args:
        values: One per step; the first belongs to step 1.
        threshold: In units of the values.
        window: Steps in a mean. Only full windows count, so `window` is the earliest answer.

    Returns:
        The step, or None if it was never reached: the run is censored there, not slow by a known amount.
    """
    means = running_mean(values, window=window)
    # Rewards are fractions; a mean can fall short by an ulp of the threshold that it equals on paper.
    return next((step for step, mean in enumerate(means, start=window) if mean >= threshold - 1e-12), None)


def paired_difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> PairedDifference:
    """Compare two methods over the seeds that both have.

    Args:
        values: Of the method, by seed.
        baseline: Of the method that is subtracted, by seed.

    Returns:
        Mean difference, its standard error over the pairs, and the p-value.
    """
    seeds = tuple(sorted(values.keys() & baseline.keys()))
    differences = [values[seed] - baseline[seed] for seed in seeds]
    return PairedDifference(
        seeds=seeds,
        difference=estimate(differences),
        p_value=sign_flip_p_value(differences) if seeds else None,
    )


def sign_flip_p_value(differences: Sequence[float]) -> float:
    """Two-sided paired permutation test of "no difference", exact over all sign patterns.

    p = #{s in {-1, +1}^n : |sum_i s_i d_i| >= |sum_i d_i|} / 2^n

    If the methods are exchangeable, each pair's difference could as well have had the other sign; nothing is assumed
    about its distribution (Fisher, The Design of Experiments, 1935, section 21). The observed pattern and its mirror
    image always count, so p is never below 2 / 2^n: 0.25 for three pairs, 0.0625 for five, 0.03125 for six. Five seeds
    can therefore not reach 0.05, however clear the difference is; its size and standard error say more.

    Args:
        differences: One per pair, at least one.

    Returns:
        The p-value.

    Raises:
        DataError: More than `MAX_PAIRS` pairs.
    """
    if len(differences) > MAX_PAIRS:
        raise DataError(
            f"{len(differences)} pairs of runs: the exact test goes through 2^n sign patterns, expected {MAX_PAIRS} or "
            "fewer. Compare fewer seeds."
        )
    sums = np.zeros(1)
    for difference in differences:
        sums = np.concatenate([sums + difference, sums - difference])
    # Sums that are equal on paper differ by rounding; sums[0] is the observed one, added up in the same order.
    tolerance = 1e-9 * float(np.abs(differences).sum())
    return float(np.mean(np.abs(sums) >= abs(sums[0]) - tolerance))


def unequal(runs: Sequence[Run], *, swept: Collection[str] = ()) -> list[str]:
    """What makes the comparison of these runs less than fair, in words.

    Args:
        runs: All that are compared.
        swept: Settings, or groups of them, that are meant to differ.
    """
    warnings = []
    if different := _differences(runs, lambda key: not _within(key, NEUTRAL | METHOD | {*swept})):
        warnings.append(f"budgets were not equal, the runs differ in {different}")
    by_method = {name: [run for run in runs if run.method == name] for name in sorted({run.method for run in runs})}
    for name, own in by_method.items():
        if different := _differences(own, lambda key: _within(key, METHOD)):
            warnings.append(f"the runs of {name} are not one method, they differ in {different}")
    seeds = {run.seed for run in runs}
    lacking = {name: sorted(seeds - {run.seed for run in own}) for name, own in by_method.items()}
    if listed := "; ".join(
        f"{name} lacks {', '.join(map(str, without))}" for name, without in lacking.items() if without
    ):
        warnings.append(f"not all means are over the same seeds, only paired differences are: {listed}")
    return warnings


def _within(name: str, settings: Collection[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:end]) in settings for end in range(1, len(parts) + 1))


def _differences(runs: Sequence[Run], concerns: Callable[[str], bool]) -> str:
    """Settings that are not the same in all runs, with a few of their values."""
    different = []
    for name in sorted({name for run in runs for name in run.settings if concerns(name)}):
        values = list(dict.fromkeys(str(run.settings.get(name, "not set")) for run in runs))
        if len(values) > 1:
            different.append(f"{name} ({', '.join(values[:4])}{', ...' if len(values) > 4 else ''})")
    return ", ".join(different)
