"""A verifier worker: scores answers in a process of its own, which may be killed at any time."""

import os
import time
from collections.abc import Sequence
from dataclasses import replace

from delta.rewards import judge_final_answer
from delta.types import Outcome, Verdict


class VerifierWorker:
    """Scores responses against reference answers, one after another."""

    def ready(self) -> None:
        """Load what odd answers need, which takes sympy a second, before the first deadline runs."""
        judge_final_answer("#### 1", "\\frac{2}{2}")

    def pid(self) -> int:
        """This process, for whoever watches or kills it."""
        return os.getpid()

    def score(self, answers: Sequence[tuple[str, str]]) -> list[Verdict]:
        """One verdict for each pair of response and reference answer."""
        return [self._score(response, answer) for response, answer in answers]

    @staticmethod
    def _score(response: str, answer: str) -> Verdict:
        started = time.perf_counter()
        try:
            verdict = judge_final_answer(response, answer)
        except Exception as error:  # noqa: BLE001  the boundary: whatever a response provokes is an outcome, not a crash
            verdict = Verdict(Outcome.error, 0.0, f"{type(error).__name__}: {error}"[:200])
        return replace(verdict, seconds=time.perf_counter() - started)
