"""Held-out accuracy: greedy and sampled, with intervals, and the share of answers that were reasoned."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from delta.data.references import reference_text
from delta.diagnostics import is_reasoned
from delta.types import Outcome, Prompt, Rollout, Verdict

Scored = tuple[Rollout, Verdict]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One held-out problem and the greedy answer to it."""

    prompt: str
    expected: str
    response: str
    correct: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What the policy can do after `step` training steps."""

    step: int
    problems: int
    accuracy: float
    """Greedy."""
    accuracy_interval: tuple[float, float]
    """95 %, Wilson."""
    sampled_accuracy: float
    """Mean over all samples at the training temperature."""
    sampled_accuracy_interval: tuple[float, float]
    """95 %, normal, over problems (the samples of one problem are not independent)."""
    reasoned_share: float
    """Sampled answers that write a step before they commit."""
    length_mean: float
    """Tokens per sampled answer."""
    failures: int
    """Answers the verifier could not judge; they count as not correct here."""
    answers: tuple[Answer, ...]
    """Greedy, all problems."""


def summarize(step: int, prompts: Sequence[Prompt], greedy: Sequence[Scored], sampled: Sequence[Scored]) -> Evaluation:
    """Put the scored answers to all held-out problems together.

    Args:
        step: Training steps so far.
        prompts: The problems.
        greedy: One answer per problem; `Rollout.group` is the place of its problem.
        sampled: Several answers per problem.

    Returns:
        The evaluation.
    """
    correct = [verdict.outcome is Outcome.correct for _, verdict in greedy]
    per_problem: list[list[float]] = [[] for _ in prompts]
    for rollout, verdict in sampled:
        per_problem[rollout.group].append(float(verdict.outcome is Outcome.correct))
    means = [sum(values) / len(values) for values in per_problem]
    return Evaluation(
        step=step,
        problems=len(prompts),
        accuracy=sum(correct) / len(prompts),
        accuracy_interval=wilson_interval(sum(correct), len(prompts)),
        sampled_accuracy=sum(means) / len(means),
        sampled_accuracy_interval=mean_interval(means),
        reasoned_share=sum(is_reasoned(rollout.text) for rollout, _ in sampled) / len(sampled),
        length_mean=sum(len(rollout.token_ids) for rollout, _ in sampled) / len(sampled),
        failures=sum(not verdict.outcome.is_judgement for _, verdict in [*greedy, *sampled]),
        answers=tuple(
            Answer(
                prompt=prompts[rollout.group].text,
                expected=reference_text(prompts[rollout.group].answer),
                response=rollout.text,
                correct=verdict.outcome is Outcome.correct,
            )
            for rollout, verdict in greedy
        ),
    )


def wilson_interval(successes: int, trials: int, *, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a proportion."""
    share = successes / trials
    spread = z * sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    center = share + z * z / (2 * trials)
    scale = 1 + z * z / trials
    return max((center - spread) / scale, 0.0), min((center + spread) / scale, 1.0)


def mean_interval(values: Sequence[float], *, z: float = 1.96) -> tuple[float, float]:
    """Normal interval of the mean of independent values."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, mean
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half = z * sqrt(variance / len(values))
    return max(mean - half, 0.0), min(mean + half, 1.0)
