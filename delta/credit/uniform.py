"""No credit assignment: every token of a rollout counts the same (GRPO, DAPO)."""

from dataclasses import dataclass


@dataclass(kw_only=True, slots=True)
class UniformConfig:
    """Coefficient 1 for every token (`credit=uniform`)."""
