"""What the learner asks of a credit variant; a new one is a file with a dataclass that answers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from delta.collectives import AllReduce, alone
from delta.credit.last_layer import Logits
from delta.credit.space import TokenSpace
from delta.tokens import OldTokens


@dataclass(frozen=True, slots=True, eq=False)
class Credit:
    """Coefficients of this rank's tokens, and what there is to say about them."""

    coefficients: Tensor
    """(S,) float32, with mean 1 over the loss-mask tokens of the global batch and 0 off the loss mask."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """By name (`credit/...`); the same on every rank."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class CreditInputs:
    """What a credit variant may look at, once per rollout batch and before its first optimizer step."""

    tokens: OldTokens
    """This rank's response tokens."""
    space: TokenSpace | None = None
    """The token gradients, if the variant asked for them with `new_space`; in the order of the sided tokens."""
    all_reduce: AllReduce = alone
    """Sums over the ranks."""
    seed: int = 0
    """Of this batch, the same on every rank; for variants that draw."""


@dataclass(kw_only=True, slots=True)
class CreditConfig(ABC):
    """A way to give each token a coefficient; its fields are the variant's settings."""

    def new_space(self, logits: Logits) -> TokenSpace | None:
        """Where the old-policy pass is to leave the token gradients of a batch; None if nobody reads them."""
        del logits
        return None

    def needs_old_pass(self) -> bool:
        """Whether coefficients depend on the old policy or on tokens elsewhere in the batch.

        If not, `estimate` may be asked for one micro-batch at a time, and an on-policy update needs no pass before it.
        """
        return True

    @abstractmethod
    def estimate(self, inputs: CreditInputs) -> Credit:
        """The coefficients, from what is known before the first optimizer step."""

    def refresh(self, coefficients: Tensor, log_ratio: Tensor, tokens: OldTokens) -> Tensor:
        """The coefficients of an optimizer step, for variants that follow the policy while it moves.

        Args:
            coefficients: (S,) of a micro-batch, from `estimate`.
            log_ratio: (S,) log_probs - old_log_probs now, without gradient.
            tokens: The same micro-batch.

        Returns:
            (S,)
        """
        del log_ratio, tokens
        return coefficients
