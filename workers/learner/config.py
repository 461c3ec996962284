"""How the policy is updated."""

from dataclasses import dataclass


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
    """Padded tokens of a forward pass at most; decides memory, never the result."""
    threads_per_rank: int = 1
    """CPU threads of a learner process."""
    persistence_threshold: int = 0
    """Parameters smaller than this many elements stay whole on every rank; 0 partitions all of them."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("num_ranks", "updates_per_step", "tokens_per_micro_batch", "threads_per_rank"):
            if getattr(self, name) < 1:
                raise ValueError(f"learner.{name}={getattr(self, name)}: expected 1 or more.")
        if self.learning_rate <= 0 or self.max_grad_norm <= 0:
            raise ValueError(
                f"learner.learning_rate={self.learning_rate}, learner.max_grad_norm={self.max_grad_norm}: "
                "expected more than 0."
            )
