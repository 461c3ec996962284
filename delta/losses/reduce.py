"""From token terms to the loss: the only place that divides."""

from torch import Tensor


def weighted_token_mean(objective: Tensor, coefficients: Tensor, *, tokens: int) -> Tensor:
    """Share of these tokens in the negated, credit-weighted token mean of the global mini-batch.

        L = - sum lambda J / tokens

    The coefficients have mean 1 over the rollout batch, so `tokens` is the self-normalising sum of lambda. Since the
    denominator is the caller's and global, the shares of micro-batches and ranks add up to the loss of the whole.

    Args:
        objective: (S,) surrogate terms, to be maximised.
        coefficients: (S,) credit of each token.
        tokens: Loss-mask tokens in the global mini-batch.

    Returns:
        A scalar to be minimised.
    """
    return -(coefficients * objective).sum() / tokens
