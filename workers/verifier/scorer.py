"""What a worker process does with one answer: judge it by its kind, then sum the reward's parts."""

import logging
import random

from delta.rewards import Reward, judge_by_plugin, judge_final_answer
from delta.rewards.program import extract_program
from delta.types import FunctionTests, Outcome, PluginAnswer, Sample, StdioTests, Verdict
from workers.verifier.code import CodeJudge
from workers.verifier.config import ScoringConfig

DETAIL_CHARS = 300


class Scorer:
    """Scores answers one after another; everything slow is loaded before the first one."""

    def __init__(self, config: ScoringConfig) -> None:
        """Find the reward's parts and load what the judges need.

        Raises:
            ConfigError: A part of the reward, or its module, is not there.
        """
        self._pool = config.pool
        self._reward = Reward(config.reward)
        self._code_judge: CodeJudge | None = None
        for name in ("math_verify", "latex2sympy2_extended"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # odd answers are data here, nothing to report
        _seed()
        for answer in ("x^{2}+\\sqrt{\\frac{1}{4}}", "\\sum_{k=1}^{3} k"):  # sympy takes a second to load
            judge_final_answer("\\boxed{\\frac{2}{4}+x^2}", answer)

    def score(self, sample: Sample) -> Verdict:
        """One verdict, the same whatever was scored before."""
        _seed()
        try:
            return self._reward.of(sample, self._judge(sample))
        except Exception as error:  # noqa: BLE001  the boundary: whatever an answer provokes is an outcome, not a crash
            return Verdict(Outcome.error, 0.0, f"{type(error).__name__}: {error}"[:DETAIL_CHARS])

    def close(self) -> None:
        """End the sandboxes."""
        if self._code_judge is not None:
            self._code_judge.close()

    def _judge(self, sample: Sample) -> Verdict:
        if len(sample.response) > self._pool.max_response_chars:
            return Verdict(
                Outcome.unparsable,
                0.0,
                f"{len(sample.response)} characters, more than verifier.max_response_chars="
                f"{self._pool.max_response_chars}",
            )
        if isinstance(sample.answer, PluginAnswer):
            return judge_by_plugin(sample.response, sample.answer)
        if isinstance(sample.answer, FunctionTests | StdioTests):
            return self._judge_program(sample.response, sample.answer)
        return judge_final_answer(sample.response, sample.answer, require_mark=self._pool.require_mark)

    def _judge_program(self, response: str, tests: FunctionTests | StdioTests) -> Verdict:
        program = extract_program(response)
        if program is None:
            return Verdict(Outcome.unparsable, 0.0, "no program: expected a fenced block, or plain code")
        if self._code_judge is None:  # a worker that only sees math starts no sandbox
            self._code_judge = CodeJudge(self._pool.code)
        return self._code_judge.judge(program, tests)


def _seed() -> None:
    """Sympy compares at random points and a user's judge may sample: the same answer meets the same luck."""
    from sympy.core.random import seed  # type: ignore[import-untyped]

    random.seed(0)
    seed(0)
