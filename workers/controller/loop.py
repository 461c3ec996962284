"""The training loop: the paper's algorithm box, with scheduling and bookkeeping pushed below it.

The controller schedules and accounts. It never touches tensors of model size and never scores an answer.
"""

import asyncio
import shutil
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from delta.data.sampler import PromptSampler
from delta.diagnostics import batch_metrics, check_mismatch
from delta.errors import DiedError, FaultError, StallError, StorageError, WorkerError
from delta.types import Prompt, UpdateReport
from workers.cluster.nodes import is_attached
from workers.controller.alarms import ConstantRewardAlarm, GradientAlarm
from workers.controller.checkpoints import CheckpointStore
from workers.controller.collection import Collected, Collector, rollout_seed
from workers.controller.config import TrainConfig
from workers.controller.console import RunConsole
from workers.controller.crew import Crew
from workers.controller.evaluation import Evaluation, summarize
from workers.controller.faults import FaultDesk
from workers.controller.interruption import Interrupted, Interruption
from workers.controller.metrics import JsonLines, Row, Tracker
from workers.controller.roster import Roster
from workers.controller.saving import Saver
from workers.controller.starting_point import starting_point
from workers.controller.trajectory import changed_versions, check_same_trajectory, trajectory_of
from workers.hold import Hold
from workers.rollout.engine import SamplingRequest
from workers.rollout.worker import RolloutTask
from workers.signals import undisturbed

T = TypeVar("T")

PROBE_TOKENS = 64
"""Length of the parity probe."""


@dataclass(frozen=True, slots=True)
class RunData:
    """What a run trains and measures on."""

    train: Sequence[Prompt]
    held_out: Sequence[Prompt]


class Controller:
    """One run, from a model and prompts to a trained policy in `run_dir`."""

    def __init__(
        self,
        config: TrainConfig,
        *,
        model_path: Path,
        data: RunData,
        run_dir: Path,
        console: RunConsole,
        hold: Hold | None = None,
    ) -> None:
        """Prepare; `run` does the work.

        Args:
            config: Of the run.
            model_path: The model it begins with.
            data: What it trains and measures on.
            run_dir: Where it writes.
            console: Where progress is shown.
            hold: The claim to `run_dir`; without, nobody else writes there.
        """
        self._config = config
        self._model_path = str(model_path)
        self._data = data
        self._run_dir = run_dir
        self._console = console
        self._sampler = PromptSampler(data.train, seed=config.seed)
        self._metrics = JsonLines(run_dir / "metrics.jsonl")
        self._evaluations = JsonLines(run_dir / "evaluations.jsonl")
        self._filtered = JsonLines(run_dir / "filtered.jsonl")
        self._checkpoints = CheckpointStore(run_dir / "checkpoints", keep=config.checkpoint.keep, hold=hold)
        self._trajectory = trajectory_of(config, data.train)
        self._step, self._taken = 0, 0  # steps done, prompts taken from the stream
        self._began_from: Path | None = None
        self._evaluated: set[int] = set()  # steps; their file holds all answers and is not to be read at each step
        self._tracker = Tracker(config.logger, run_dir=run_dir, settings=self._trajectory)
        self.interruption = Interruption(grace_s=config.faults.grace_s)
        self._crew: Crew | None = None
        self._roster = Roster(config, model_path=self._model_path, run_dir=run_dir, say=console.say)
        self._faults = FaultDesk(config.faults, run_dir=run_dir, console=console)
        self._constant_reward = ConstantRewardAlarm(steps=config.verifier.constant_reward_steps)
        self._gradients = GradientAlarm()
        probe = [token for prompt in data.train[:PROBE_TOKENS] for token in prompt.token_ids]
        self._probe = (probe * 2)[:PROBE_TOKENS]

    async def run(self) -> bool:
        """Train to the last step, or until asked to end; whether the run is complete."""
        try:
            with self.interruption.listen():
                while True:
                    try:
                        return await self._start_and_train()
                    except FaultError as error:
                        if self.interruption.requested:  # a scheduler may have ended the other processes as well
                            self._console.warn(f"{error} The run was ending; its last complete checkpoint stays.")
                            return False
                        await self.interruption.abandon(self._recover(error))
        except Interrupted:
            return False
        finally:
            self._tracker.close()
            if self._crew is not None and is_attached():  # else Ray is ours, and all processes end with it
                with undisturbed():
                    await self._crew.disband()

    async def _start_and_train(self) -> bool:
        """What a fresh process does; after a fault it is done again, with new processes."""
        await self.interruption.abandon(self.start())
        await self._resume()
        try:
            await self._train()
        except Interrupted:
            await self._checkpoint()
            await self._saver.settle()
            return False
        except StallError:
            raise  # whoever hangs may hold up the checkpoint in progress as well
        except Exception:  # whatever it was, it goes on to the caller; a checkpoint in progress is let through first
            await self._saver.settle_quietly()
            raise
        return True

    async def _train(self) -> None:
        steps = self._config.steps
        await self._evaluate_if_due()  # before the first step; or an interruption came between a step and this
        while self._step < steps:
            self._record(await self.step(self._step))
            self._saver.check()
            await self._evaluate_if_due()
            if self._step % self._config.checkpoint.every == 0 or self._step == steps:
                await self._checkpoint()
        await self._saver.settle()
        await self._learners.export(self._run_dir / "export")

    async def _evaluate_if_due(self) -> None:
        """Measure at the steps that ask for it, once; a run that begins anywhere begins with a measurement."""
        done, step = self._evaluated, self._step
        due = step % self._config.evaluation.every == 0 or step == self._config.steps or not done
        if due and step not in done:
            await self._evaluate()

    async def step(self, step: int) -> Row:
        """One step of the algorithm: prompts, scored groups, update, new policy everywhere; its metrics."""
        started = time.perf_counter()
        collected = await self._sampled(
            lambda: self._collector.collect(step, taken=self._taken)
        )  # N prompts, N groups of G scored rollouts
        # From here the step is all or nothing: weights, engines and metrics move on together.
        report = await self._learners.update(collected.groups, policy_version=step)  # credit, then optimizer steps
        updated = time.perf_counter()
        await self._publish(step + 1)  # rollout workers move to the new policy
        self._step = step + 1
        self._taken += len(collected.sampled)
        now = time.perf_counter()
        if alarm := self._constant_reward.observe(collected.sampled):
            self._console.warn(alarm)
        for group in collected.filtered:
            self._filtered.append({"step": self._step, "prompt": group.prompt.id, "reason": "equal rewards"})
        return self._row(collected, report, sync_s=now - updated, step_s=now - started)

    async def start(self) -> None:
        """Start all processes and load the model into them; engines and learners load side by side."""
        with self._console.phase("starting engines, verifier and learners"):
            stations = await self._roster.stations()
            self._crew = crew = Crew(self._config, model_path=self._model_path, stations=stations)
            self._rollouts, self._verifier, self._learners = crew.rollouts, crew.verifier, crew.learners
            self._collector = Collector(self._config, self._sampler, rollouts=self._rollouts, verifier=self._verifier)
            self._saver = Saver(
                self._checkpoints,
                self._learners,
                model=self._model_path,
                trajectory=self._trajectory,
                say=self._console.say,
            )
            parameters = await crew.ready()
        self._check_space(await self._learners.checkpoint_bytes())
        self._console.say(
            f"policy: {parameters:,} parameters | {len(self._data.train):,} problems to train on, "
            f"{len(self._data.held_out):,} held out | run folder {self._run_dir}"
        )

    async def _recover(self, fault: FaultError) -> None:
        """Put a fault on record and clear the field for new processes.

        Raises:
            ExhaustedError: It happened too often.
        """
        crew, awaited = self._crew, self._collector.awaited()
        assert crew is not None
        await self._faults.take_in(fault, step=self._step, actors=crew.by_name(), awaited=awaited, nodes=crew.nodes)
        await self._saver.drop()
        await crew.disband()

    async def _sampled(self, sample: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Sample until it succeeds: what is sampled depends on no engine's history, so engines can be replaced.

        Raises:
            FaultError: Something else went wrong, which the whole run has to start again for.
        """
        while True:
            try:
                return await self.interruption.abandon(sample())
            except (DiedError, StallError) as error:
                crew, engines = self._crew, self._rollouts.by_name()
                assert crew is not None
                if error.who not in engines or not crew.has_its_nodes():
                    raise
                awaited = self._collector.awaited()
                await self._faults.take_in(
                    error,
                    step=self._step,
                    actors=engines,
                    awaited=awaited,
                    nodes=crew.nodes,
                    remedy="new engines",
                )
                await self.interruption.abandon(crew.replace_engines())
                await self._learners.connect(self._rollouts.actors)
                await self._publish(self._step)

    async def _resume(self) -> None:
        """Load the newest checkpoint if there is one, and give engines the learner's policy."""
        self._step, self._taken = 0, 0
        # Checksums were looked at before anything was started.
        found = await asyncio.to_thread(
            starting_point,
            self._config,
            self._checkpoints,
            say=self._console.warn,
            checksums=False,
            began_from=self._began_from,
        )
        if found is not None:
            folder, manifest = found
            self._began_from = None if folder.is_relative_to(self._run_dir) else folder
            check_same_trajectory(self._trajectory, manifest.trajectory, folder=folder)
            await self._learners.load(folder)
            self._step, self._taken = manifest.step, manifest.prompts
            self._console.say(f"resumed from {folder}: {manifest.step} steps done")
            if changed := changed_versions(manifest.versions):
                self._console.say(f"it was written with {changed}: the next steps may not be bit-identical")
            if manifest.ranks != self._config.learner.num_ranks:
                self._console.say(
                    f"it was written by {manifest.ranks} learner ranks, and learner.num_ranks="
                    f"{self._config.learner.num_ranks} now: weights and optimizer are the same to the bit, but the "
                    "next steps not bit-identical, for gradients are added up in another order"
                )
        self._checkpoints.discard_drafts()
        self._metrics.cut(last_step=self._step)
        self._evaluations.cut(last_step=self._step)
        self._filtered.cut(last_step=self._step)
        self._evaluated = {row["step"] for row in self._evaluations.rows()}
        await self._publish(self._step)

    async def _publish(self, policy_version: int) -> None:
        """Move the weights to every engine, and make sure that they arrived.

        Raises:
            MismatchError: An engine computes other log-probabilities than the learner for the probe.
        """
        await self._learners.publish(policy_version)
        engines, expected = await asyncio.gather(
            self._rollouts.log_probs(self._probe), self._learners.log_probs(self._probe)
        )
        for place, (version, log_probs) in enumerate(engines):
            if version != policy_version:
                raise WorkerError(
                    f"rollout worker {place} holds policy {version} after policy {policy_version} was sent."
                )
            check_mismatch(
                float(np.abs(log_probs - expected).max()),
                self._config.mismatch_limit,
                where=f"parity probe of rollout worker {place}, policy {policy_version}",
            )

    async def _evaluate(self) -> None:
        """Measure held-out accuracy, greedy and sampled."""
        evaluation = await self._sampled(self._measure)
        self._evaluations.append(asdict(evaluation))
        self._evaluated.add(evaluation.step)
        self._console.evaluation(evaluation)
        self._tracker.log(
            {
                "evaluation/accuracy": evaluation.accuracy,
                "evaluation/sampled_accuracy": evaluation.sampled_accuracy,
                "evaluation/reasoned_share": evaluation.reasoned_share,
            },
            step=self._step,
        )

    async def _measure(self) -> Evaluation:
        prompts = self._data.held_out
        config = self._config
        tasks = [
            RolloutTask(
                group,
                index,
                SamplingRequest(
                    prompt.token_ids,
                    config.rollout.temperature if index else 0.0,
                    config.rollout.max_new_tokens,
                    # Seeds of their own, below all training steps; the same at every measurement.
                    rollout_seed(config.seed, -1, group, index),
                ),
            )
            for group, prompt in enumerate(prompts)
            for index in range(1 + config.evaluation.samples)
        ]
        scored, _ = await self._collector.sample_and_score(tasks, prompts)
        scored.sort(key=lambda pair: (pair[0].group, pair[0].index))
        greedy = [pair for pair in scored if pair[0].index == 0]
        sampled = [pair for pair in scored if pair[0].index > 0]
        return summarize(self._step, prompts, greedy, sampled)

    async def _checkpoint(self) -> None:
        """Take the state after the last complete step; it is written while the next one runs."""
        await self._saver.take(step=self._step, prompts=self._taken)

    def _row(self, collected: Collected, report: UpdateReport, *, sync_s: float, step_s: float) -> Row:
        metrics = batch_metrics(collected.sampled)
        wasted = sum(len(rollout.token_ids) for group in collected.filtered for rollout in group.rollouts)
        return {
            "step": self._step,
            "epoch": self._sampler.epoch(self._taken),
            "policy_version": self._step,
            **metrics,
            **report.metrics,
            **self._verifier.take_statistics().metrics(),
            "sampling/groups": len(collected.sampled),
            "sampling/filtered": len(collected.filtered),
            "sampling/rounds": collected.rounds,
            "sampling/waste": wasted / metrics["rollout/tokens"],
            "time/generate_s": collected.generate_s,
            "time/score_s": collected.score_s,
            "time/sync_s": sync_s,
            "time/step_s": step_s,
            "rollout/tokens_per_s": metrics["rollout/tokens"] / collected.generate_s,
            "step/rollouts_per_s": sum(len(group.rollouts) for group in collected.sampled) / step_s,
        }

    def _record(self, row: Row) -> None:
        """Put a step on the record.

        Raises:
            GradientError: It was one of too many that trained nothing.
            TakenOverError: Another driver has the run folder by now.
        """
        self._checkpoints.check_hold()
        self._metrics.append(row)
        self._console.step(row, steps=self._config.steps)
        self._tracker.log(row, step=self._step)
        if alarm := self._gradients.observe(row, step=self._step):
            self._console.warn(alarm)

    def _check_space(self, checkpoint_bytes: int) -> None:
        """Room for those still missing of all that are kept, and for the one being written; each write looks again."""
        missing = max(self._config.checkpoint.keep - len(self._checkpoints.published()), 0) + 1
        needed = checkpoint_bytes * missing
        free = shutil.disk_usage(self._run_dir).free
        if free < needed:
            raise StorageError(
                f"{self._run_dir} has {free / 2**20:.0f} MiB free; {missing} checkpoint{'s' * (missing > 1)} of "
                f"{checkpoint_bytes / 2**20:.0f} MiB more take {needed / 2**20:.0f} MiB. Free space, choose another "
                "run_dir, or lower checkpoint.keep."
            )
