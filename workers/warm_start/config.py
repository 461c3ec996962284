"""Which model a run starts from: one of the project's own making, or one on disk."""

from dataclasses import dataclass


@dataclass(kw_only=True, slots=True)
class WarmStartModelConfig:
    """A small Qwen3 that the project makes and teaches by worked examples (`model=warm_start`)."""

    dtype: str = "float32"
    """Of the policy in learner and engine."""
    hidden_size: int = 128
    intermediate_size: int = 384
    num_layers: int = 3
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 32
    max_positions: int = 2048
    """Context of the model."""
    tie_embeddings: bool = False
    """Share the embedding with the LM head."""
    initializer_range: float = 0.04
    """Deviation of the initial weights."""
    talkative: bool = False
    """Lessons in free wording: tokens on which the policy is undecided and nothing depends."""
    steps: int = 1500
    """Supervised steps."""
    batch_size: int = 32
    """Worked examples per step."""
    learning_rate: float = 3e-3
    """AdamW; rises over `warmup_steps`, then falls to a twentieth along a cosine."""
    warmup_steps: int = 30
    threads: int = 2
    """CPU threads. Several wait for each other by spinning: where other programs want the processors, 1 is quicker."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.steps < 1 or self.batch_size < 1 or self.num_layers < 1:
            raise ValueError(
                f"model.steps={self.steps}, model.batch_size={self.batch_size}, model.num_layers={self.num_layers}: "
                "expected 1 or more."
            )


@dataclass(kw_only=True, slots=True)
class PretrainedModelConfig:
    """A causal language model in Hugging Face format (`model=pretrained`)."""

    path: str = ""
    """A folder with config.json, weights and tokenizer; or a name on the Hugging Face hub, where there is network."""
    dtype: str = "float32"
    """Of the policy in learner and engine: float32 or bfloat16."""
    allow_untested: bool = False
    """Train an architecture that nobody has tried with this learner and engine; `docs/models.md` lists the tried."""


ModelConfig = WarmStartModelConfig | PretrainedModelConfig
