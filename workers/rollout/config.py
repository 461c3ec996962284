"""How rollouts are sampled."""

from dataclasses import dataclass


@dataclass(kw_only=True, slots=True)
class RolloutConfig:
    """Rollout workers and sampling (`rollout=vllm`)."""

    prompts_per_step: int = 32
    """N, prompts sampled per training step."""
    group_size: int = 8
    """G, rollouts per prompt."""
    max_refills: int = 0
    """Rounds, at most, in which further prompts are sampled in place of groups whose rewards are all equal (DAPO's
    dynamic sampling); a step then trains on the groups that carry a signal. 0 trains on all groups as they come."""
    max_new_tokens: int = 32
    """Tokens a rollout may have; it is cut there."""
    temperature: float = 1.0
    """Sampling temperature; the learner's log-probabilities use the same."""
    max_model_len: int = 2048
    """Context of the engine: prompt and rollout must fit."""
    num_workers: int = 1
    """Engines, each with a copy of the policy; prompts are dealt to them in turn."""
    tensor_parallel_size: int = 1
    """GPUs of an engine, all on one node; 1 on CPUs."""
    threads_per_worker: int = 1
    """CPU threads of an engine."""
    max_num_seqs: int = 256
    """Rollouts that an engine decodes at the same time."""
    kv_cache_gib: int = 1
    """KV cache of an engine on the CPU."""
    mismatch_limit: float = 0.0
    """Largest tolerated difference between engine and learner log-probability of the same token, in nats; 0 chooses by
    `model.dtype`: 0.001 in float32, 0.5 in bfloat16, whose rounding alone makes 0.1 to 0.2 of a token now and then."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in (
            "prompts_per_step",
            "group_size",
            "max_new_tokens",
            "num_workers",
            "tensor_parallel_size",
            "threads_per_worker",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"rollout.{name}={getattr(self, name)}: expected 1 or more.")
        if self.max_refills < 0:
            raise ValueError(f"rollout.max_refills={self.max_refills}: expected 0 or more rounds.")
        if self.group_size < 2:
            raise ValueError(
                f"rollout.group_size={self.group_size}: expected 2 or more; rollouts are scored against their siblings."
            )
        if self.mismatch_limit < 0:
            raise ValueError(f"rollout.mismatch_limit={self.mismatch_limit}: expected 0 or more nats.")
        if self.temperature <= 0:
            raise ValueError(
                f"rollout.temperature={self.temperature}: expected more than 0; greedy cannot be trained on."
            )
        if self.max_new_tokens >= self.max_model_len:
            raise ValueError(
                f"rollout.max_new_tokens={self.max_new_tokens} leaves no room for a prompt in "
                f"rollout.max_model_len={self.max_model_len}; lower the one or raise the other."
            )
