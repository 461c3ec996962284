"""DelTA's algorithm library: torch and NumPy, no cluster framework, no configuration system, no GPU needed to import.

Data flows through the folders: `data` (files to prompts, rollouts to training batches), `rewards`, `advantages`,
`credit`, `surrogates`, `importance`, `aggregations`, `losses`.
"""

from delta.types import (
    FinishReason,
    Outcome,
    Prompt,
    Rollout,
    RolloutGroup,
    TrainBatch,
    UpdateReport,
    Verdict,
)

__all__ = [
    "FinishReason",
    "Outcome",
    "Prompt",
    "Rollout",
    "RolloutGroup",
    "TrainBatch",
    "UpdateReport",
    "Verdict",
]
