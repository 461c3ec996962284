"""A rollout worker: samples answers with the engine it owns, and takes new weights between batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import AutoTokenizer

from delta.types import Floats, Rollout
from workers.addresses import use_own_address
from workers.rollout.config import RolloutConfig
from workers.rollout.engine import Completion, Engine, SamplingRequest, VllmEngine

CHUNK = 64
"""Finished rollouts are handed on in lots of this size: scoring starts early, and messages stay few."""


@dataclass(frozen=True, slots=True)
class RolloutTask:
    """One rollout to sample: which prompt, and its place in the batch and in its group."""

    group: int
    index: int
    request: SamplingRequest


class RolloutWorker:
    """Turns tasks into rollouts stamped with the policy version; one engine, one process.

    The weight methods are those of vLLM's `VLLMWeightSyncClient` protocol, seen from the engine.
    """

    def __init__(self, model_path: str, config: RolloutConfig, *, dtype: str, seed: int) -> None:
        """Load tokenizer and engine."""
        use_own_address()
        self._tokenizer = AutoTokenizer.from_pretrained(model_path)
        self._engine: Engine = VllmEngine(
            model_path, config, eos_token_id=self._tokenizer.eos_token_id, dtype=dtype, seed=seed
        )
        self._policy_version = 0

    def ready(self) -> int:
        """Answer once the engine is loaded."""
        return self._policy_version

    def generate(self, tasks: Sequence[RolloutTask]) -> Iterator[list[Rollout]]:
        """Sample all tasks together and yield rollouts in lots as they finish."""
        waiting: list[Completion] = []
        for finished in self._engine.sample([task.request for task in tasks]):
            waiting += finished
            if len(waiting) >= CHUNK:
                yield self._rollouts(tasks, waiting)
                waiting = []
        if waiting:
            yield self._rollouts(tasks, waiting)

    def log_probs(self, token_ids: Sequence[int]) -> tuple[int, Floats]:
        """The policy version, and its log-probabilities of the tokens after the first: the parity probe."""
        return self._policy_version, self._engine.log_probs(token_ids)

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Join the transfer group of the learner."""
        self._engine.transfer("init_weight_transfer_engine", init_info)

    def start_weight_update(self) -> None:
        """Make the model ready to be overwritten."""
        self._engine.transfer("start_weight_update")

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Receive one stream of weights."""
        self._engine.transfer("update_weights", update_info)

    def finish_weight_update(self, weight_version: str) -> None:
        """Put the received weights to use; rollouts carry `weight_version` from now on."""
        self._engine.transfer("finish_weight_update")
        self._policy_version = int(weight_version)
        self._engine.set_policy_version(self._policy_version)

    def _rollouts(self, tasks: Sequence[RolloutTask], completions: Sequence[Completion]) -> list[Rollout]:
        texts = self._tokenizer.batch_decode(
            [completion.token_ids for completion in completions], skip_special_tokens=True
        )
        return [
            Rollout(
                group=tasks[completion.place].group,
                index=tasks[completion.place].index,
                token_ids=completion.token_ids,
                rollout_log_probs=completion.log_probs,
                text=text,
                finish_reason=completion.finish_reason,
                policy_version=self._policy_version,
                seed=tasks[completion.place].request.seed,
            )
            for completion, text in zip(completions, texts, strict=True)
        ]
