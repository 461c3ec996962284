"""Forking tokens: only the tokens at which the policy was undecided carry loss."""

from dataclasses import dataclass

from delta.credit.estimator import Credit, CreditConfig, CreditInputs
from delta.credit.top_share import top_share


@dataclass(kw_only=True, slots=True)
class ForkingConfig(CreditConfig):
    """High-entropy tokens only (`credit=forking`).

        lambda = n / n_selected  for the share of the n loss-mask tokens of the batch with the highest entropy of the
                                 old policy, else 0                                           arXiv:2506.01939

    Tokens that tie with the last selected one are selected too.
    """

    share: float = 0.2
    """Of the loss-mask tokens of the batch; the paper's best is a fifth."""

    def __post_init__(self) -> None:
        """Check the range."""
        if not 0 < self.share <= 1:
            raise ValueError(f"credit.share={self.share}: expected a share in (0, 1]; the paper uses 0.2.")

    def estimate(self, inputs: CreditInputs) -> Credit:
        """The selected tokens share the weight of all."""
        tokens = inputs.tokens
        selection = top_share(
            tokens.entropy.nan_to_num(nan=-1.0), tokens.loss_mask, share=self.share, all_reduce=inputs.all_reduce
        )
        weight = selection.candidates / max(selection.count, 1)
        return Credit(
            selection.selected.float() * weight,
            {"credit/selected_share": selection.count / max(selection.candidates, 1)},
        )
