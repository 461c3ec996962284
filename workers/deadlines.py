"""How long a part of the run may be silent before it is taken for hung."""

from dataclasses import dataclass, fields


@dataclass(kw_only=True, slots=True)
class DeadlinesConfig:
    """One deadline for each phase, in seconds; generous, since they only have to end waits that would never end.

    They hold for every call to a worker. Collectives between learner ranks get the longest of them, so that a rank
    whose controller is gone ends as well; those to the engines get `sync_s`.
    """

    start_s: float = 900.0
    """Starting processes and loading the model into them."""
    generation_s: float = 1800.0
    """Between two lots of finished rollouts of an engine."""
    score_s: float = 1800.0
    """From the last rollout of a batch to its last verdict; single answers have deadlines of their own (`verifier`)."""
    update_s: float = 3600.0
    """Old pass, credit and all optimizer steps of a batch."""
    sync_s: float = 600.0
    """Moving the weights to the engines, and the parity probe; an engine may take half of it for each of its calls."""
    checkpoint_s: float = 1800.0
    """Writing or reading a checkpoint, and the export."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for field in fields(self):
            if getattr(self, field.name) <= 0:
                raise ValueError(f"faults.deadlines.{field.name}={getattr(self, field.name)}: expected more than 0 s.")

    @property
    def collective_s(self) -> float:
        """Timeout of a process group: a collective may be part of any phase."""
        return float(max(getattr(self, field.name) for field in fields(self)))
