"""Sampling and scoring the answers that an evaluation lacks, with the engines and verifiers of training."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from delta.rewards import RewardConfig
from delta.types import FinishReason, Rollout, Sample
from launch.evaluation import Answers, EvalConfig, Task
from launch.scores import AnswerRow
from workers.calls import stalled
from workers.cluster.nodes import listed
from workers.rollout.pool import RolloutPool
from workers.rollout.worker import RolloutTask
from workers.verifier.verifier import Verifier, verifier_for


async def complete(config: EvalConfig, tasks: Sequence[Task], answers: Answers, advance: Callable[[], None]) -> None:
    """Get all answers that are missing, and have those judged that could not be.

    Args:
        config: The evaluation.
        tasks: All its answers.
        answers: Those that are there; each new one is kept as soon as it is judged.
        advance: Called for each of them.

    Raises:
        WorkerError: A process died or hung.
        ConfigError: The engines do not fit the cluster.
    """
    nodes = listed(num_gpus=config.cluster.num_gpus)[: config.nodes]
    on_gpus = config.cluster.num_gpus > 0
    shares = config.placement(nodes=len(nodes))
    verifier = verifier_for(config.verifier, RewardConfig(), nodes=nodes)
    work = _Work(config, answers, verifier, advance)
    missing = [task for task in tasks if answers.lacks(task)]
    try:
        await verifier.ready()
        for task in tasks:
            if row := answers.unjudged(task):
                work.judge(task, response=row.response, tokens=row.tokens, truncated=row.truncated)
        if missing:
            rollouts = RolloutPool(
                config.model.path,
                config.rollout,
                dtype=config.model.dtype,
                seed=config.seed,
                deadlines=config.deadlines,
                nodes=[node for node, share in zip(nodes, shares, strict=True) for _ in share.engines],
                num_gpus=config.rollout.tensor_parallel_size if on_gpus else 0,
            )
            try:
                await rollouts.ready()
                await work.sample(missing, rollouts)
            finally:
                rollouts.end()
        await work.last_verdicts()
    finally:
        work.cancel()
        await asyncio.to_thread(verifier.close)


class _Work:
    """Verdicts under way."""

    def __init__(self, config: EvalConfig, answers: Answers, verifier: Verifier, advance: Callable[[], None]) -> None:
        self._config, self._answers, self._verifier, self._advance = config, answers, verifier, advance
        self._judging: list[asyncio.Task[None]] = []

    async def sample(self, missing: Sequence[Task], rollouts: RolloutPool) -> None:
        """Sample the missing answers, and judge each as soon as it is there."""
        groups: dict[tuple[str, str], int] = {}  # all samples of a problem go to one engine, which reads it once
        by_place = {
            (groups.setdefault((task.benchmark, task.prompt.id), len(groups)), task.sample): task for task in missing
        }
        requests = [RolloutTask(group, sample, task.request) for (group, sample), task in by_place.items()]
        async for lot in rollouts.generate(requests, chunk=1):
            for rollout in lot:
                self._judge_sampled(by_place[rollout.group, rollout.index], rollout)

    def _judge_sampled(self, task: Task, rollout: Rollout) -> None:
        cut = rollout.finish_reason is FinishReason.length
        self.judge(task, response=rollout.text, tokens=len(rollout.token_ids), truncated=cut)

    def judge(self, task: Task, *, response: str, tokens: int, truncated: bool) -> None:
        """Begin to judge an answer."""
        sample = Sample(
            response=response,
            answer=task.prompt.answer,
            prompt=task.prompt.text,
            tokens=tokens,
            max_tokens=self._config.rollout.max_new_tokens,
            truncated=truncated,
        )
        self._start(self._judge(task, sample))

    async def last_verdicts(self) -> None:
        """Return when all answers are judged and kept.

        Raises:
            StallError: The verifier needed longer than `deadlines.score_s` for what was left.
        """
        deadline_s = self._config.deadlines.score_s
        try:
            await asyncio.wait_for(asyncio.gather(*self._judging), deadline_s)
        except TimeoutError as error:
            raise stalled(["verifier"], phase="scoring", timeout_s=deadline_s, answered=[]) from error

    def cancel(self) -> None:
        """Give up what is under way."""
        for task in self._judging:
            task.cancel()

    def _start(self, judging: Coroutine[Any, Any, None]) -> None:
        self._judging.append(asyncio.create_task(judging))

    async def _judge(self, task: Task, sample: Sample) -> None:
        (verdict,) = await self._verifier.score([sample])
        row = AnswerRow(
            key=task.key,
            problem=task.prompt.id,
            sample=task.sample,
            outcome=verdict.outcome,
            detail=verdict.detail,
            tokens=sample.tokens,
            truncated=sample.truncated,
            response=sample.response,
        )
        self._answers.append(task.benchmark, row)
        self._advance()
