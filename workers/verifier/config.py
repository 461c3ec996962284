"""How answers are scored."""

from dataclasses import dataclass


@dataclass(kw_only=True, slots=True)
class VerifierConfig:
    """The pool of verifier processes (`verifier=pool`)."""

    num_workers: int = 1
    """Verifier processes."""
    timeout_s: float = 10.0
    """Time one answer may take; then its worker is killed and replaced, and the outcome is `timeout`."""
    max_failure_rate: float = 0.1
    """Share of a step's verdicts that may be timeouts or errors; above it the run stops."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.num_workers < 1 or self.timeout_s <= 0 or not 0 <= self.max_failure_rate <= 1:
            raise ValueError(
                f"verifier.num_workers={self.num_workers}, verifier.timeout_s={self.timeout_s}, "
                f"verifier.max_failure_rate={self.max_failure_rate}: expected at least 1 worker, a positive timeout "
                "and a rate from 0 to 1."
            )
