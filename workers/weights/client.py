"""The control plane of a weight sync: vLLM's four calls, to every rollout worker at once, each with a deadline."""

from typing import Any

import ray
from ray.actor import ActorHandle

from workers.calls import GONE, stalled, translate


class RolloutWorkersClient:
    """vLLM's `VLLMWeightSyncClient` protocol over rollout actors.

    Unlike vLLM's own Ray client it numbers the engines (several independent ones join one transfer group) and gives up
    at a deadline instead of waiting for a dead engine.
    """

    version = 0
    """Policy version of the weights that are sent next."""

    def __init__(self, actors: list[ActorHandle], *, timeout_s: float, processes_per_engine: int = 1) -> None:
        """Drive `actors`; an unanswered call fails after `timeout_s` seconds.

        Args:
            actors: One for each engine.
            timeout_s: For each call.
            processes_per_engine: `rollout.tensor_parallel_size`.
        """
        self._actors = actors
        self._timeout_s = timeout_s
        self._processes_per_engine = processes_per_engine

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Let every engine join the group under ranks of its own, one for each of its processes."""
        calls = [
            actor.init_weight_transfer_engine.remote(
                {**init_info, "rank_offset": init_info["rank_offset"] + place * self._processes_per_engine}
            )
            for place, actor in enumerate(self._actors)
        ]
        self._wait("init_weight_transfer_engine", calls)

    def start_weight_update(self) -> None:
        """Make the engines ready."""
        self._wait("start_weight_update", [actor.start_weight_update.remote() for actor in self._actors])

    def update_weights(self, update_info: Any) -> None:
        """Let the engines receive; returns when all have."""
        self._wait("update_weights", [actor.update_weights.remote(update_info) for actor in self._actors])

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Put the weights to use and stamp them with `version`: vLLM's own backends name none."""
        stamp = str(self.version) if weight_version is None else weight_version
        self._wait("finish_weight_update", [actor.finish_weight_update.remote(stamp) for actor in self._actors])

    def _wait(self, phase: str, calls: list[Any]) -> None:
        phase = f"weight sync ({phase})"
        try:
            ray.get(calls, timeout=self._timeout_s)
        except ray.exceptions.GetTimeoutError as error:
            answered, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
            names = {call: f"rollout worker {place}" for place, call in enumerate(calls)}
            raise stalled(
                [name for call, name in names.items() if call not in answered],
                phase=phase,
                timeout_s=self._timeout_s,
                answered=[names[call] for call in answered],
            ) from error
        except GONE as error:
            gone = getattr(error, "actor_id", None)
            places = [place for place, actor in enumerate(self._actors) if actor._actor_id.hex() == gone]
            name = f"rollout worker {places[0]}" if places else "a rollout worker"
            raise translate(error, name=name, phase=phase) from error
