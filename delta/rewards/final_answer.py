r"""Mathematical final answers: find the one a response commits to, and compare it with the reference.

    response --extraction--> text --normalization--> one spelling --readings--> what it is --equivalence--> verdict

Nothing here evaluates model text as code, and what would take long to work out is refused by its size, so a judge needs
no clock of its own.
"""

from delta.rewards.equivalence import equivalent, readable
from delta.rewards.extraction import BOX, MARKER, extract_final_answer
from delta.types import Outcome, Verdict

__all__ = ["BOX", "MARKER", "check_reference", "extract_final_answer", "judge_final_answer"]


def judge_final_answer(response: str, answer: str, *, require_mark: bool = False) -> Verdict:
    r"""Score a response against the reference answer: reward 1 if they are mathematically the same, else 0.

    Args:
        response: What the policy wrote.
        answer: The reference, plain or LaTeX, with or without `$`.
        require_mark: Take answers only from `\boxed{...}` and `#### ...`, and not from prose.

    Returns:
        `correct`, `wrong`, or `unparsable` when the response commits to nothing.
    """
    given = extract_final_answer(response, require_mark=require_mark)
    if given is None:
        return Verdict(Outcome.unparsable, 0.0, f"no final answer: expected '{MARKER} ...' or '{BOX}...}}'")
    outcome = Outcome.correct if equivalent(given, answer) else Outcome.wrong
    return Verdict(outcome, float(outcome is Outcome.correct), f"answered {given[:80]!r}, expected {answer[:80]!r}")


def check_reference(answer: str) -> str | None:
    """Why a reference cannot be judged; None if it can.

    Args:
        answer: The reference answer of a problem.

    Returns:
        A sentence for the user who wrote the data, such as one about an empty or unreadable answer.
    """
    if not answer.strip():
        return "The reference answer is empty."
    if readable(answer):
        return None
    return f"The reference answer {answer[:80]!r} is neither mathematics nor words: only its own text would be right."
