"""A learner rank as a process: group membership, weight sync, checkpoints, and the update itself."""

import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.actor import ActorHandle

from delta.types import Floats, RolloutGroup, UpdateReport
from workers.addresses import free_address, use_own_address
from workers.cpu_linear import use_onednn
from workers.files import FileDigest, replace_folder, storage_errors
from workers.learner.checkpoint import LEARNER, MODEL, LearnerState, StagedState, write_description, write_state
from workers.learner.config import LearnerConfig
from workers.learner.learner import AlgorithmConfig, Learner
from workers.learner.lora import FirstPolicy, add_adapters, save_adapter, whole_adapter


class LearnerWorker:
    """One rank of the learner group. The controller calls every method on all ranks at once."""

    def __init__(self, *, rank: int, config: LearnerConfig) -> None:
        """Take a place in the group; nothing is loaded yet."""
        self._rank = rank
        self._config = config
        self._staged: StagedState | None = None
        use_own_address()

    def address(self) -> tuple[str, int]:
        """An address of this process's node that is free to listen on."""
        return free_address()

    def set_up(
        self,
        model_path: str,
        algorithm: AlgorithmConfig,
        *,
        dtype: str,
        temperature: float,
        mismatch_limit: float,
        address: str,
        port: int,
        timeout_s: float,
    ) -> int:
        """Join the group and partition the model over it; returns the number of parameters."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from workers.learner.engine import create_engine, create_reference, join_ranks
        from workers.learner.policy import Policy
        from workers.learner.sequence_parallel import share_sequences

        torch.set_num_threads(self._config.threads_per_rank)
        join_ranks(rank=self._rank, world_size=self._config.num_ranks, address=address, port=port, timeout_s=timeout_s)
        self._tokenizer = AutoTokenizer.from_pretrained(model_path)
        causal_lm = AutoModelForCausalLM.from_pretrained(model_path, dtype=getattr(torch, dtype))
        if self._config.lora.rank:
            add_adapters(causal_lm, self._config.lora, model_path=model_path)
        use_onednn(causal_lm)
        parameters = sum(parameter.numel() for parameter in causal_lm.parameters())
        self._causal_lm = causal_lm
        shared = self._config.sequence_parallel
        sequences = share_sequences(causal_lm.config, shared) if shared > 1 else None

        def as_policy(model: Any) -> Policy:
            return Policy(
                model,
                temperature=temperature,
                lm_head_chunk_tokens=self._config.lm_head_chunk_tokens,
                sequence_group=sequences,
            )

        if self._config.gradient_checkpointing:
            causal_lm.gradient_checkpointing_enable({"use_reentrant": False})
        self._engine = create_engine(as_policy(causal_lm), self._config)
        reference: Any = None
        if algorithm.regularization.kl and self._config.lora.rank:
            reference = FirstPolicy(self._engine)
        elif algorithm.regularization.kl:
            frozen = AutoModelForCausalLM.from_pretrained(model_path, dtype=getattr(torch, dtype))
            use_onednn(frozen)
            reference = create_reference(as_policy(frozen), self._config)
        self._learner = Learner(
            self._engine,
            algorithm,
            self._config,
            mismatch_limit=mismatch_limit,
            reference=reference,
        )
        self._state = LearnerState(self._engine, causal_lm)
        return parameters

    def set_algorithm(self, algorithm: AlgorithmConfig) -> None:
        """Compute something else from the next update on."""
        self._learner.set_algorithm(algorithm)

    def connect(self, rollout_actors: list[ActorHandle], *, address: str, port: int, timeout_s: float) -> None:
        """Open the weight transfer to the engines."""
        from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

        from workers.weights.client import RolloutWorkersClient
        from workers.weights.gloo import GlooTrainerInitInfo
        from workers.weights.source import Zero3Source

        self._transfer: Any = WeightTransferTrainerFactory.trainer_init(
            GlooTrainerInitInfo(
                rank=self._rank,
                master_address=address,
                master_port=port,
                world_size=1 + len(rollout_actors),
                timeout_s=timeout_s,
            ),
            # Half of what the learners are given, so that a silent engine is named before their own deadline.
            client=RolloutWorkersClient(rollout_actors, timeout_s=timeout_s / 2),
            source=Zero3Source(self._causal_lm),
        )

    def publish(self, policy_version: int) -> None:
        """Send the weights to every engine under the name of `policy_version`."""
        self._transfer.version = policy_version
        self._transfer.send_weights()

    def update(self, groups: Sequence[RolloutGroup], *, policy_version: int) -> UpdateReport:
        """Train on one batch; see `Learner.update`."""
        return self._learner.update(groups, policy_version=policy_version)

    def coefficients(self, groups: Sequence[RolloutGroup]) -> tuple[np.ndarray, np.ndarray]:
        """Credit of this rank's tokens; see `Learner.coefficients`."""
        places, coefficients = self._learner.coefficients(groups)
        return places.numpy(), coefficients.numpy()

    def log_probs(self, token_ids: Sequence[int]) -> Floats:
        """The learner's side of the parity probe; see `Learner.log_probs`."""
        return self._learner.log_probs(token_ids).numpy()

    def checkpoint_bytes(self) -> int:
        """What this rank's part of a checkpoint takes on the disk."""
        return self._state.size()

    def stage(self) -> int:
        """Copy this rank's state to host memory for `write`; returns its bytes. Training waits for this only."""
        self._staged = self._state.stage()
        return self._staged.size

    @ray.method(concurrency_group="checkpoint")
    def write(self, folder: str) -> dict[str, FileDigest]:
        """Write what was staged into the folder of a checkpoint, beside whatever else this rank does.

        Rank 0 adds the model's configuration and the tokenizer, so that a checkpoint can be exported by itself.

        Returns:
            Size and checksum of every file, by its path in the checkpoint.

        Raises:
            StorageError: The disk is full, or the folder cannot be written.
        """
        staged, self._staged = self._staged, None
        if staged is None:
            raise RuntimeError("write() without stage()")
        written = write_state(staged, Path(folder) / LEARNER, rank=self._rank)
        files = {f"{LEARNER}/{name}": seen for name, seen in written.items()}
        if self._rank == 0:
            described = write_description(self._causal_lm, self._tokenizer, Path(folder) / MODEL)
            files.update({f"{MODEL}/{name}": seen for name, seen in described.items()})
        return files

    def load(self, folder: str) -> None:
        """Read what any number of ranks wrote into the folder of a checkpoint."""
        self._state.load(Path(folder) / LEARNER)

    def export(self, folder: str) -> None:
        """Write whole weights, configuration and tokenizer in Hugging Face format; rank 0 writes.

        The folder appears, or replaces an older one, when everything is in it.

        With LoRA the weights include the adapter, which is also in the folder `adapter`, as peft keeps it.

        Raises:
            StorageError: The disk is full, or the folder cannot be written.
        """
        from workers.weights.source import Zero3Source

        adapter = whole_adapter(self._causal_lm) if self._config.lora.rank else {}
        weights = {name: weight.detach().clone() for name, weight in Zero3Source(self._causal_lm) if self._rank == 0}
        if self._rank > 0:
            return
        with storage_errors(
            f"cannot write {folder}",
            remedy="Free space, then start the same command again: the policy is in the last checkpoint.",
        ):
            final = Path(folder)
            for leftover in final.parent.glob(f".writing-{final.name}-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            # A name of its own: a rank that was given up may live on behind a broken network, and write.
            draft = final.with_name(f".writing-{final.name}-{secrets.token_hex(4)}")
            draft.mkdir(parents=True)
            self._causal_lm.save_pretrained(draft, state_dict=weights)
            self._tokenizer.save_pretrained(draft)
            if adapter:
                save_adapter(self._causal_lm, adapter, draft / "adapter")
            replace_folder(draft, final)


def learner_environment(config: LearnerConfig) -> dict[str, str]:
    """Environment of a learner process; read by torch and DeepSpeed when they load."""
    return {
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": str(config.threads_per_rank),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
    }
