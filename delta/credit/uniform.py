"""No credit assignment: every token of a rollout counts the same (GRPO, DAPO)."""

from dataclasses import dataclass

from delta.credit.estimator import Credit, CreditConfig, CreditInputs


@dataclass(kw_only=True, slots=True)
class UniformConfig(CreditConfig):
    """Coefficient 1 for every token (`credit=uniform`)."""

    def needs_old_pass(self) -> bool:
        """No: the coefficients are 1."""
        return False

    def estimate(self, inputs: CreditInputs) -> Credit:
        """1 on the loss mask."""
        return Credit(inputs.tokens.loss_mask.float())
