"""Training on a share of the tokens by their DelTA coefficient: the paper's test of what the coefficient means."""

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from delta.credit.discriminative import DiscriminativeConfig
from delta.credit.estimator import Credit, CreditInputs
from delta.credit.top_share import top_share


class Keep(Enum):
    """Which tokens: those with the largest coefficients, the smallest, or any."""

    top = "top"
    bottom = "bottom"
    random = "random"


@dataclass(kw_only=True, slots=True)
class ShareConfig(DiscriminativeConfig):
    """A share of the tokens, all alike (`credit=share`).

        lambda = n / n_selected  for the selected of the n tokens of the batch whose rollout has an advantage, else 0

    arXiv:2605.21467, ablations: the top half trains better than all tokens, the bottom half collapses.
    """

    keep: Keep = Keep.top
    """By coefficient, or at random."""
    share: float = 0.5
    """Of the loss-mask tokens of the batch whose rollout has an advantage."""

    def __post_init__(self) -> None:
        """Check the range."""
        DiscriminativeConfig.__post_init__(self)
        if not 0 < self.share <= 1:
            raise ValueError(f"credit.share={self.share}: expected a share in (0, 1]; the paper uses 0.5.")

    def estimate(self, inputs: CreditInputs) -> Credit:
        """The selected tokens share the weight of all."""
        tokens = inputs.tokens
        credit = DiscriminativeConfig.estimate(self, inputs)
        if self.keep is Keep.random:
            scores = scatter(tokens.places, seed=inputs.seed)
        else:
            scores = credit.coefficients if self.keep is Keep.top else -credit.coefficients
        selection = top_share(scores, tokens.sided, share=self.share, all_reduce=inputs.all_reduce)
        weight = selection.candidates / max(selection.count, 1)
        kept = selection.count / max(selection.candidates, 1)
        neutral = tokens.loss_mask & ~tokens.sided  # they have no term, only a place in the mean
        return Credit(
            selection.selected.float() * weight + neutral.float(), {**credit.metrics, "credit/selected_share": kept}
        )


def scatter(places: Tensor, *, seed: int) -> Tensor:
    """(S,) float32, uniform in [0, 1): a hash of each token's place, so that it does not matter who holds the token."""
    mask = 0xFFFFFFFF
    value = (places * 0x9E3779B1 + (seed % 2**31) * 0x85EBCA77) & mask
    for multiplier in (0x7FEB352D, 0x846CA68B):
        value = ((value ^ (value >> 16)) * multiplier) & mask
    value = value ^ (value >> 16)
    return (value >> 8).to(torch.float32) / 2**24
