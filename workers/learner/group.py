"""All learner ranks as one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray

from delta.types import Floats, RolloutGroup, UpdateReport
from workers.calls import gather
from workers.cluster.nodes import Node, pinned
from workers.deadlines import DeadlinesConfig
from workers.files import FileDigest
from workers.learner.actor import LearnerActor
from workers.learner.config import LearnerConfig
from workers.learner.learner import AlgorithmConfig
from workers.learner.worker import learner_environment
from workers.rollout.config import RolloutConfig


class LearnerGroup:
    """The ranks of one ZeRO-3 group; every call goes to all of them, since every call holds collectives."""

    def __init__(
        self, config: LearnerConfig, *, deadlines: DeadlinesConfig, nodes: Sequence[Node] = (), num_gpus: int = 0
    ) -> None:
        """Start the processes; `set_up` loads the model.

        Args:
            config: The learner's.
            deadlines: Of the calls.
            nodes: Of the ranks, in their order; without, Ray chooses.
            num_gpus: GPUs of a rank: 1, or 0 on CPUs.
        """
        self._deadlines = deadlines
        self.num_ranks = config.num_ranks
        environment = {"env_vars": learner_environment(config, on_gpu=num_gpus > 0)}
        self.actors = [
            LearnerActor.options(
                num_cpus=0,
                num_gpus=num_gpus,
                runtime_env=environment,
                scheduling_strategy=pinned(nodes[rank] if nodes else None),
            ).remote(rank=rank, config=config)
            for rank in range(config.num_ranks)
        ]

    def by_name(self) -> dict[str, Any]:
        """The ranks as messages name them."""
        return {f"learner rank {rank}": actor for rank, actor in enumerate(self.actors)}

    def end(self) -> None:
        """Kill the processes, whatever they are doing."""
        for actor in self.actors:
            ray.kill(actor)

    async def set_up(
        self,
        model_path: str,
        algorithm: AlgorithmConfig,
        *,
        dtype: str,
        temperature: float,
        mismatch_limit: float,
    ) -> int:
        """Form the group and partition the model; returns its number of parameters."""
        address, port = await self._free_address()
        parameters = await self._all(
            "learner start-up",
            "set_up",
            model_path,
            algorithm,
            dtype=dtype,
            temperature=temperature,
            mismatch_limit=mismatch_limit,
            address=address,
            port=port,
            timeout_s=self._deadlines.collective_s,
            within_s=self._deadlines.start_s,
        )
        return int(parameters[0])

    async def set_algorithm(self, algorithm: AlgorithmConfig) -> None:
        """Compute something else from the next update on."""
        await self._all("set-up", "set_algorithm", algorithm, within_s=self._deadlines.start_s)

    async def connect(self, rollout_actors: list[Any], rollout: RolloutConfig | None = None) -> None:
        """Open the weight transfer to the engines, which are as `rollout` says."""
        rollout = rollout or RolloutConfig()
        address, port = await self._free_address()
        await self._all(
            "weight transfer set-up",
            "connect",
            rollout_actors,
            processes_per_engine=rollout.tensor_parallel_size,
            backend=rollout.weight_transfer,
            address=address,
            port=port,
            timeout_s=self._deadlines.sync_s,
            within_s=self._deadlines.start_s,
        )

    async def publish(self, policy_version: int) -> None:
        """Move the weights to every engine."""
        await self._all("weight sync", "publish", policy_version, within_s=self._deadlines.sync_s)

    async def update(self, groups: Sequence[RolloutGroup], *, policy_version: int) -> UpdateReport:
        """Train on one batch; it is put into the object store once, whatever the number of ranks."""
        reports = await self._all(
            "update", "update", ray.put(groups), policy_version=policy_version, within_s=self._deadlines.update_s
        )
        report: UpdateReport = reports[0]
        return report

    async def coefficients(self, groups: Sequence[RolloutGroup]) -> Floats:
        """Credit of every response token of the batch, in batch order; nothing is trained."""
        parts = await self._all("credit", "coefficients", ray.put(groups), within_s=self._deadlines.update_s)
        places = np.concatenate([places for places, _ in parts])
        values = np.concatenate([values for _, values in parts])
        # Ranks that share sequences hold the same tokens.
        coefficients = np.zeros(places.max() + 1, dtype=np.float32)
        coefficients[places] = values
        return coefficients

    async def log_probs(self, token_ids: Sequence[int]) -> Floats:
        """The learner's log-probabilities of the parity probe."""
        answers: list[Floats] = await self._all("parity probe", "log_probs", token_ids, within_s=self._deadlines.sync_s)
        return answers[0]

    async def checkpoint_bytes(self) -> int:
        """What a checkpoint takes on the disk."""
        return sum(await self._all("learner start-up", "checkpoint_bytes", within_s=self._deadlines.start_s))

    async def stage(self) -> int:
        """Copy the state of every rank to host memory; its bytes. The next update may begin when this returns."""
        return sum(await self._all("checkpoint", "stage", within_s=self._deadlines.checkpoint_s))

    async def write(self, folder: Path) -> dict[str, FileDigest]:
        """Write what was staged, beside other calls; size and checksum of every file by its path in `folder`."""
        parts: list[dict[str, FileDigest]] = await self._all(
            "writing of a checkpoint", "write", str(folder), within_s=self._deadlines.checkpoint_s
        )
        return {name: seen for part in parts for name, seen in part.items()}

    async def load(self, folder: Path) -> None:
        """Read the shards of a checkpoint, whatever the number of ranks that wrote it."""
        await self._all("resume", "load", str(folder), within_s=self._deadlines.checkpoint_s)

    async def export(self, folder: Path) -> None:
        """Write the policy in Hugging Face format."""
        await self._all("export", "export", str(folder), within_s=self._deadlines.checkpoint_s)

    async def _free_address(self) -> tuple[str, int]:
        addresses: list[tuple[str, int]] = await self._all(
            "learner start-up", "address", within_s=self._deadlines.start_s
        )
        return addresses[0]

    async def _all(self, phase: str, method: str, *args: Any, within_s: float, **kwargs: Any) -> list[Any]:
        calls = {name: getattr(actor, method).remote(*args, **kwargs) for name, actor in self.by_name().items()}
        return await gather(calls, phase=phase, timeout_s=within_s)
