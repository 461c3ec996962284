"""The plot of a sweep: reward and held-out accuracy over the steps, and what was reached, method by method."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.statistics import WINDOW, Method, Run, estimate, running_mean

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9", "#882255")
"""Distinct to colour-blind readers: Okabe and Ito's, with wine for the yellow that white paper swallows."""
STYLES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (8, 2)), (0, (4, 1, 1, 1, 1, 1)), (0, (1, 3)))
"""One fewer than colours: 56 methods pass before a pair comes twice."""


def draw(methods: Sequence[Method], runs: Sequence[Run], path: Path, *, threshold: float) -> None:
    """Plot the methods; bands and bars are one standard error over the runs of a method."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    size = (17, 4.5 + 0.25 * len(methods))
    figure, (reward, accuracy, final) = pyplot.subplots(1, 3, figsize=size, layout="constrained")
    window = min(WINDOW, *(len(run.rewards) for run in runs))
    for place, method in enumerate(methods):
        color, style = COLORS[place % len(COLORS)], STYLES[place % len(STYLES)]
        own = [run for run in runs if run.method == method.method]
        curves = [running_mean(run.rewards, window=window) for run in own]
        length = min(map(len, curves))  # as far as the shortest run goes
        steps = range(window, window + length)
        _band(reward, steps, [[curve[step] for curve in curves] for step in range(length)], color, style, method.method)

        common = sorted(set.intersection(*({measured.step for measured in run.measured} for run in own)))
        by_step = [[next(m.sampled for m in run.measured if m.step == step) for run in own] for step in common]
        _band(accuracy, common, by_step, color, style)

        seeds = [run.final.sampled for run in own]
        final.plot(seeds, [place + 0.2] * len(seeds), "o", color=color, ms=4, alpha=0.5)
        error = method.sampled_accuracy.standard_error
        final.errorbar(method.sampled_accuracy.mean, place, xerr=error, fmt="D", color=color, ms=7, capsize=5, lw=2)
    reward.axhline(threshold, color="gray", lw=0.8, ls=":")
    reward.set(
        title="Reward while training (band: one standard error)",
        xlabel="training step",
        ylabel=f"mean reward of the last {window} steps",
    )
    accuracy.set(
        title="Held-out accuracy while training (band: one standard error)",
        xlabel="training step",
        ylabel="share of right sampled answers",
    )
    final.set(
        title="Held-out accuracy after training",
        xlabel="share of right sampled answers (bar: one standard error, dots: runs)",
        yticks=range(len(methods)),
        yticklabels=[method.method for method in methods],
        ylim=(len(methods) - 0.5, -0.5),
    )
    for axis in (reward, accuracy, final):
        axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4, handlelength=4)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _band(
    axis: Any, steps: Sequence[int], values: Sequence[Sequence[float]], color: str, style: Any, label: str | None = None
) -> None:
    """The mean over the runs at each step, and its standard error around it."""
    points = [estimate(at_step) for at_step in values]
    means = [point.mean or 0.0 for point in points]
    errors = [point.standard_error or 0.0 for point in points]
    axis.plot(steps, means, color=color, ls=style, lw=1.8, label=label)
    low, high = ([mean + sign * error for mean, error in zip(means, errors, strict=True)] for sign in (-1, 1))
    axis.fill_between(steps, low, high, color=color, alpha=0.12, lw=0)
