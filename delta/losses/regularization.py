"""What may be added to the policy loss: distance from a reference policy, and entropy."""

from dataclasses import dataclass

from delta.losses.kl import KlEstimator


@dataclass(kw_only=True, slots=True)
class RegularizationConfig:
    """Optional terms of the loss, aggregated like the surrogate but without credit; off, as in DAPO and DelTA."""

    kl: float = 0.0
    """Coefficient of the divergence from the policy that the run began with; if not 0, a second model is loaded."""
    kl_estimator: KlEstimator = KlEstimator.k3
    """How the divergence is estimated from the sampled tokens."""
    entropy: float = 0.0
    """Coefficient of the entropy bonus."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.kl >= 0 or not self.entropy >= 0:
            raise ValueError(f"regularization.kl={self.kl}, regularization.entropy={self.entropy}: expected 0 or more.")
