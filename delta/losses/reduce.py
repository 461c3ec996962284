"""From token terms to the loss: the one sum."""

from torch import Tensor


def weighted_sum(terms: Tensor, *factors: Tensor | None) -> Tensor:
    """Sum of the terms of a micro-batch, each multiplied by its factors: credit, importance, aggregation weight.

        sum_t x_t f_t g_t ...

    The factors hold the denominators, which are global, so the sums of micro-batches and ranks add up to that of the
    whole. A term whose weight is 0 does not count even if it is not finite.

    Args:
        terms: (S,)
        *factors: (S,) each; None is 1.

    Returns:
        A scalar.
    """
    for factor in factors:
        if factor is not None:
            terms = terms.masked_fill(factor == 0, 0.0) * factor
    return terms.sum()
