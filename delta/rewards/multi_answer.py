r"""A judge for tasks with several answers, and the example of a judge of one's own.

{"prompt": "...", "task": "delta.rewards.multi_answer.judge", "answer": ["\\frac{1}{2}", "3"]}
"""

import re
from collections.abc import Sequence

from delta.rewards.final_answer import judge_final_answer
from delta.types import Outcome, Verdict

_BOXES = re.compile(r"(?=\\boxed\{)")


def judge(response: str, answers: Sequence[str]) -> Verdict:
    r"""Score a response that must box several answers, in their order; the last boxes count.

    Args:
        response: What the policy wrote.
        answers: The references.

    Returns:
        `correct` if all are right; otherwise `wrong`, with the share that is right as reward. Fewer boxes than answers
        are `unparsable`.
    """
    boxes = [piece for piece in _BOXES.split(response) if piece.startswith("\\boxed{")]
    if len(boxes) < len(answers):
        return Verdict(Outcome.unparsable, 0.0, f"{len(boxes)} boxed answers, expected {len(answers)}")
    verdicts = [
        judge_final_answer(box, answer, require_mark=True)
        for box, answer in zip(boxes[len(boxes) - len(answers) :], answers, strict=True)
    ]
    right = sum(verdict.outcome is Outcome.correct for verdict in verdicts)
    outcome = Outcome.correct if right == len(answers) else Outcome.wrong
    return Verdict(outcome, right / len(answers), f"{right} of {len(answers)} answers are right")
