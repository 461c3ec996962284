"""A step's rollouts: sampled, scored while others still generate, and replaced where they carry no signal."""

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from delta.data.sampler import PromptSampler
from delta.errors import WorkerError
from delta.types import FinishReason, Outcome, Prompt, Rollout, RolloutGroup, Sample, Verdict
from workers.calls import stalled
from workers.controller.config import TrainConfig
from workers.controller.evaluation import Scored
from workers.rollout.engine import SamplingRequest
from workers.rollout.pool import RolloutPool
from workers.rollout.worker import RolloutTask
from workers.verifier.verifier import Verifier


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """A step's groups, and the seconds it took to get them."""

    groups: list[RolloutGroup]
    """To train on."""
    filtered: list[RolloutGroup]
    """Left out, because their rewards are all equal."""
    rounds: int
    """Times that prompts were sampled."""
    generate_s: float
    score_s: float
    """From the last rollout to the last verdict; the rest of scoring is hidden behind generation."""

    @property
    def sampled(self) -> list[RolloutGroup]:
        """All groups of the step."""
        return [*self.groups, *self.filtered]


class Collector:
    """Turns prompts into scored groups, with the engines and the verifier of a run."""

    def __init__(
        self, config: TrainConfig, sampler: PromptSampler, *, rollouts: RolloutPool, verifier: Verifier
    ) -> None:
        """Sample from `sampler` with `rollouts`, score with `verifier`."""
        self._config = config
        self._sampler = sampler
        self._rollouts = rollouts
        self._verifier = verifier
        self._prompts: Sequence[Prompt] = ()
        self._unscored: Counter[int] = Counter()
        """Rollouts that the verifier has, by group."""

    def awaited(self) -> dict[str, list[str]]:
        """Ids of the prompts whose rollouts are not all there, by the engine that samples them, or the verifier."""
        groups: dict[str, Sequence[int]] = {**self._rollouts.awaited()}
        if unscored := sorted(+self._unscored):
            groups["verifier"] = unscored
        return {name: [self._prompts[group].id for group in members] for name, members in groups.items()}

    async def collect(self, step: int, *, taken: int) -> Collected:
        """A step's groups, one for each prompt; where asked to, those without a signal are replaced, within bounds.

        The prompts that a step takes, and what is sampled for them, are functions of the position in the stream, so a
        resumed run repeats them. If no group has a signal the step trains on what it sampled first.

        Args:
            step: Training steps done before.
            taken: Prompts taken from the stream before.

        Raises:
            WorkerError: The verifier could not judge too many of the answers.
        """
        wanted, refills = self._config.rollout.prompts_per_step, self._config.rollout.max_refills
        started = time.perf_counter()
        prompts: list[Prompt] = []
        kept: list[RolloutGroup] = []
        filtered: list[RolloutGroup] = []
        rounds, score_s = 0, 0.0
        while rounds <= refills and len(kept) < wanted:
            fresh = self._sampler.take(taken + len(prompts), wanted - len(kept))
            prompts += fresh
            groups, seconds = await self._sample_groups(step, prompts, first=len(prompts) - len(fresh))
            score_s += seconds
            rounds += 1
            for group in groups:
                (kept if refills == 0 or group.is_mixed else filtered).append(group)
        if not kept:
            kept, filtered = filtered[:wanted], filtered[wanted:]
        self._check_failures([verdict for group in (*kept, *filtered) for verdict in group.verdicts])
        return Collected(
            groups=kept,
            filtered=filtered,
            rounds=rounds,
            generate_s=time.perf_counter() - started - score_s,
            score_s=score_s,
        )

    async def _sample_groups(
        self, step: int, prompts: Sequence[Prompt], *, first: int
    ) -> tuple[list[RolloutGroup], float]:
        """Scored groups for the step's prompts from number `first` on, and the seconds scoring took in the end."""
        group_size = self._config.rollout.group_size
        tasks = [
            RolloutTask(group, index, self.request(step, group, index, prompts[group]))
            for group in range(first, len(prompts))
            for index in range(group_size)
        ]
        scored, generated = await self.sample_and_score(tasks, prompts)
        score_s = time.perf_counter() - generated
        by_place = {(rollout.group, rollout.index): (rollout, verdict) for rollout, verdict in scored}
        groups = []
        for group in range(first, len(prompts)):
            rollouts, verdicts = zip(*(by_place[group, index] for index in range(group_size)), strict=True)
            groups.append(RolloutGroup(prompts[group], rollouts, verdicts))
        return groups, score_s

    def request(self, step: int, group: int, index: int, prompt: Prompt) -> SamplingRequest:
        """What to ask the engine for one rollout of a training step."""
        return SamplingRequest(
            prompt.token_ids,
            self._config.rollout.temperature,
            self._config.rollout.max_new_tokens,
            rollout_seed(self._config.seed, step, group, index),
        )

    async def sample_and_score(
        self, tasks: Sequence[RolloutTask], prompts: Sequence[Prompt]
    ) -> tuple[list[Scored], float]:
        """Scored rollouts in no particular order, and the time at which the last one was sampled.

        Raises:
            StallError: The verifier needed longer than `faults.deadlines.score_s` for what was left then.
        """

        async def score(lot: list[Rollout]) -> list[Scored]:
            self._unscored.update(rollout.group for rollout in lot)
            verdicts = await self._verifier.score([self._sample(rollout, prompts[rollout.group]) for rollout in lot])
            self._unscored.subtract(rollout.group for rollout in lot)
            return [(rollout, self._charged(verdict)) for rollout, verdict in zip(lot, verdicts, strict=True)]

        self._prompts, self._unscored = prompts, Counter()
        scoring: list[asyncio.Task[list[Scored]]] = []
        try:
            async for lot in self._rollouts.generate(tasks):
                scoring.append(asyncio.create_task(score(lot)))
            generated = time.perf_counter()
            scored = await self._last_verdicts(scoring)
        finally:
            for task in scoring:
                task.cancel()
        return [pair for lot in scored for pair in lot], generated

    async def _last_verdicts(self, scoring: Sequence[asyncio.Task[list[Scored]]]) -> list[list[Scored]]:
        deadline_s = self._config.faults.deadlines.score_s
        try:
            return await asyncio.wait_for(asyncio.gather(*scoring), deadline_s)
        except TimeoutError as error:
            raise stalled(["verifier"], phase="scoring", timeout_s=deadline_s, answered=[]) from error

    def _sample(self, rollout: Rollout, prompt: Prompt) -> Sample:
        return Sample(
            response=rollout.text,
            answer=prompt.answer,
            prompt=prompt.text,
            tokens=len(rollout.token_ids),
            max_tokens=self._config.rollout.max_new_tokens,
            truncated=rollout.finish_reason is FinishReason.length,
        )

    def _charged(self, verdict: Verdict) -> Verdict:
        """The verdict, on the answer's account if it ran out of time and that is what the user wants."""
        charge = self._config.verifier.timeout_is_wrong and verdict.outcome is Outcome.timeout
        return replace(verdict, charged=True) if charge else verdict

    def _check_failures(self, verdicts: Sequence[Verdict]) -> None:
        failed = [verdict for verdict in verdicts if not verdict.is_judged]
        limit = self._config.verifier.max_failure_rate
        if len(failed) > limit * len(verdicts):
            raise WorkerError(
                f"the verifier could not judge {len(failed)} of {len(verdicts)} answers (for example "
                f"{failed[0].outcome.value}: {failed[0].detail}); expected at most "
                f"verifier.max_failure_rate={limit:g}. Rewards would say more about the verifier than about the policy."
            )


def rollout_seed(seed: int, step: int, group: int, index: int) -> int:
    """The sampling seed of a rollout: a function of its place in the run, so that a resumed run repeats it."""
    digest = hashlib.blake2b(f"{seed}/{step}/{group}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) % 2**31
