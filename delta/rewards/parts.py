r"""The parts a reward may be made of; each is a function of the answer and of what the judge found.

A part of your own is any function with the same shape, named in the configuration by its Python path:

    def brevity(sample: Sample, verdict: Verdict, *, target: int) -> float:
        return min(target / max(sample.tokens, 1), 1.0)

    reward.parts.brevity={function: my_package.brevity, weight: 0.2, options: {target: 500}}

It runs in a verifier worker under the answer's deadline, so it may be slow or hang without harm to the run; what it
raises makes the answer's outcome `error`. It must be a function of its arguments alone: verdicts on equal answers are
given once.
"""

import re
import unicodedata
from typing import Protocol

from delta.types import Sample, Verdict


class RewardPart(Protocol):
    """A named, weighted part of the reward."""

    def __call__(self, sample: Sample, verdict: Verdict, **options: object) -> float:
        """The part's value for one answer.

        Args:
            sample: The answer, its reference and its length.
            verdict: What the judge found; `verdict.reward` is 1 for a correct answer, 0 for others, and whatever a
                judge of your own gives.
            options: As in the configuration.

        Returns:
            A finite number, to be weighted and summed.
        """


def correctness(sample: Sample, verdict: Verdict) -> float:
    """The judge's own reward: 1 for a correct answer, else 0."""
    return verdict.reward


def format(sample: Sample, verdict: Verdict, *, pattern: str = r".*(####|\\boxed\{).*") -> float:
    """1 if the whole response matches a regular expression (in which `.` is any character), else 0."""
    return float(re.fullmatch(pattern, sample.response, flags=re.DOTALL) is not None)


def language(sample: Sample, verdict: Verdict, *, script: str = "LATIN") -> float:
    """Share of the response's letters that belong to a script, as DeepSeek-R1 rewards words of one language.

    Digits, signs and mathematical letters belong to every script; a response without letters gets 1.

    Args:
        sample: The answer.
        verdict: Not looked at.
        script: As the names of its characters in Unicode begin: `LATIN`, `CYRILLIC`, `CJK`, `GREEK`, `ARABIC`, ...
    """
    names = [unicodedata.name(letter, "") for letter in sample.response if letter.isalpha()]
    letters = [name for name in names if not name.startswith("MATHEMATICAL")]
    return sum(name.startswith(script) for name in letters) / len(letters) if letters else 1.0


def overlong(sample: Sample, verdict: Verdict, *, buffer: int) -> float:
    """What a response loses for coming close to the token limit.

        0                                  up to limit - buffer tokens
        (limit - buffer - length) / buffer   from there down to -1 at the limit       DAPO, arXiv:2503.14476

    Args:
        sample: The answer; without a limit it loses nothing.
        verdict: Not looked at.
        buffer: Tokens before the limit over which the loss grows. The papers use 4,096 of 20,480.

    Raises:
        ValueError: The buffer is not within the limit; then every response would be punished.
    """
    if sample.max_tokens == 0:
        return 0.0
    if not 0 < buffer <= sample.max_tokens:
        raise ValueError(f"overlong: buffer={buffer}, expected 1 to the token limit, {sample.max_tokens}.")
    return max(min((sample.max_tokens - buffer - sample.tokens) / buffer, 0.0), -1.0)
