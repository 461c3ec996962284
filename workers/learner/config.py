"""How the policy is updated."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from workers.learner.lora import LoraConfig


class OffloadDevice(Enum):
    """Where a learner keeps what it does not compute with at the moment."""

    none = "none"
    cpu = "cpu"
    nvme = "nvme"


@dataclass(kw_only=True, slots=True)
class OffloadConfig:
    """What leaves the memory of the accelerator (DeepSpeed's ZeRO-Offload and ZeRO-Infinity)."""

    optimizer: OffloadDevice = OffloadDevice.none
    """Master weights, moments and gradients: `cpu` or `nvme`; the optimizer then steps on the CPU."""
    parameters: OffloadDevice = OffloadDevice.none
    """Shards of the weights in working precision; they come back for each layer."""
    nvme_path: str = ""
    """Folder on a local disk, for `nvme`."""
    pin_memory: bool = True
    """Page-locked host memory, which copies faster and cannot be swapped out."""

    @property
    def uses_nvme(self) -> bool:
        """Whether anything goes to a disk."""
        return OffloadDevice.nvme in (self.optimizer, self.parameters)

    def __post_init__(self) -> None:
        """Check that the choices fit together."""
        if self.uses_nvme and not self.nvme_path:
            raise ValueError(
                f"learner.offload.optimizer={self.optimizer.value}, "
                f"learner.offload.parameters={self.parameters.value}: expected "
                "learner.offload.nvme_path, a folder on a local disk."
            )
        if self.parameters is OffloadDevice.nvme and self.optimizer is not OffloadDevice.nvme:
            raise ValueError(
                f"learner.offload.parameters=nvme with learner.offload.optimizer={self.optimizer.value}: DeepSpeed "
                "moves weights to NVMe only together with the optimizer. Set learner.offload.optimizer=nvme as well."
            )


@dataclass(kw_only=True, slots=True)
class LearnerConfig:
    """DeepSpeed ZeRO-3 learners and their optimizer (`learner=zero3`)."""

    num_ranks: int = 2
    """Learner processes; parameters, gradients and optimizer states are partitioned over them."""
    updates_per_step: int = 2
    """Optimizer steps per rollout batch."""
    learning_rate: float = 1e-4
    """AdamW, constant."""
    beta1: float = 0.9
    """AdamW."""
    beta2: float = 0.999
    """AdamW."""
    adam_eps: float = 1e-8
    """AdamW."""
    weight_decay: float = 0.1
    """AdamW, decoupled."""
    max_grad_norm: float = 1.0
    """Global gradient norm is clipped here."""
    tokens_per_micro_batch: int = 8192
    """Tokens of a forward pass at most, pads included; a longer row has one of its own. Decides memory, never the
    result."""
    packing: bool = True
    """Rows end to end in one sequence; otherwise padded to a rectangle, for comparison."""
    lm_head_chunk_tokens: int = 1024
    """Tokens whose logits over the whole vocabulary exist at a time."""
    gradient_checkpointing: bool = False
    """Keep only the inputs of each decoder layer and compute the rest again in the backward pass: a fraction of the
    memory for a third more time."""
    sequence_parallel: int = 1
    """Neighbouring ranks that share each sequence (Ulysses), for rows too long for one; divides `num_ranks`."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Low-rank adapters instead of all weights."""
    threads_per_rank: int = 1
    """CPU threads of a learner process."""
    persistence_threshold: int = 0
    """Parameters smaller than this many elements stay whole on every rank; 0 partitions all of them."""
    offload: OffloadConfig = field(default_factory=OffloadConfig)
    compile: bool = False
    """Compile the decoder layers with torch.compile; needs a C++ compiler, and takes minutes at the start."""
    deepspeed: dict[str, Any] = field(default_factory=dict)
    """Further settings for DeepSpeed, in its own words, merged last; those that this project decides are refused."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in (
            "num_ranks",
            "updates_per_step",
            "tokens_per_micro_batch",
            "threads_per_rank",
            "lm_head_chunk_tokens",
            "sequence_parallel",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"learner.{name}={getattr(self, name)}: expected 1 or more.")
        if self.num_ranks % self.sequence_parallel:
            raise ValueError(
                f"learner.sequence_parallel={self.sequence_parallel} does not divide learner.num_ranks="
                f"{self.num_ranks}; use a divisor, so that every sequence is shared by as many ranks."
            )
        if self.sequence_parallel > 1 and not self.packing:
            raise ValueError(
                f"learner.sequence_parallel={self.sequence_parallel} needs learner.packing=true: ranks share packed "
                "rows."
            )
        if self.compile and self.sequence_parallel > 1:
            raise ValueError(
                f"learner.compile=true with learner.sequence_parallel={self.sequence_parallel} is not supported: ranks "
                "exchange heads within a layer. Turn one of them off."
            )
        if self.learning_rate <= 0 or self.max_grad_norm <= 0:
            raise ValueError(
                f"learner.learning_rate={self.learning_rate}, learner.max_grad_norm={self.max_grad_norm}: "
                "expected more than 0."
            )
