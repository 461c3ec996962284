"""The row proxy: the gradient of a token's log-probability with respect to one row of the LM head."""

import torch
from torch import Tensor

from delta.credit.cache import RowCache, accumulation_dtype, chunk_rows
from delta.credit.space import Members, side_weights
from delta.shapes import check_shape


def token_vectors(hidden: Tensor, log_probs: Tensor) -> Tensor:
    """The gradient of log p(y) with respect to the LM-head row of the sampled token y.

        v = (1 - p(y)) h                                      arXiv:2605.21467, section 3

    Args:
        hidden: (S, H) input of the LM head at the position that predicts the token.
        log_probs: (S,) of the sampled tokens under the old policy at the sampling temperature, in nats.

    Returns:
        (S, H) in the dtype of `hidden`.
    """
    check_shape(hidden, "S H")
    check_shape(log_probs, "S", S=hidden.shape[0])
    # expm1 keeps 1 - p where p is within rounding of 1, which most tokens of a trained policy are.
    return hidden * -torch.expm1(log_probs).unsqueeze(-1).to(hidden.dtype)


class RowProxy(Members):
    """The space of the row proxies, cached as they come (see `TokenSpace`)."""

    needs_lm_head = False

    def __init__(self, cache: RowCache | None = None) -> None:
        """Start empty; `cache` decides precision and place of the vectors."""
        self._cache = RowCache() if cache is None else cache
        super().__init__()
        self._advantage_sums: Tensor | None = None

    def append(self, hidden: Tensor, log_probs: Tensor, targets: Tensor, advantages: Tensor) -> None:
        """Take in tokens; what they are (`targets`) does not matter here."""
        del targets
        self.append_vectors(token_vectors(hidden, log_probs), advantages)

    def append_vectors(self, vectors: Tensor, advantages: Tensor) -> None:
        """Take in (S, H) vectors and the (S,) advantages of their tokens."""
        check_shape(vectors, "S H")
        check_shape(advantages, "S", S=vectors.shape[0])
        vectors, usable = self._cache.append(vectors)
        self._admit(advantages, usable)
        if self._advantage_sums is None:
            self._advantage_sums = vectors.new_zeros(2, vectors.shape[1], dtype=torch.float64)
        # The first of the sweeps is for free while the vectors are warm.
        weights = advantages.abs().double() * usable
        rows = chunk_rows(vectors.shape[1], vectors.device)
        parts = (torch.split(tensor, rows) for tensor in (vectors, weights, advantages > 0))
        for chunk, share, positive in zip(*parts, strict=True):
            self._advantage_sums += _side_sums(chunk, share, positive)

    def advantage_sums(self) -> Tensor:
        """(2, H) float64."""
        if self._advantage_sums is None:
            raise ValueError("a space needs one append, though it may be of no token: it tells the hidden size")
        return self._advantage_sums.clone()  # an all-reduce may write into it

    def sums(self, weights: Tensor) -> Tensor:
        """(2, H) float64."""
        positive = self.advantages > 0
        total = torch.zeros_like(self.advantage_sums())
        for place, chunk in self._cache.chunks():
            total += _side_sums(chunk, weights[place], positive[place])
        return total

    def project(self, direction: Tensor) -> Tensor:
        """(S,) float64, for a direction (H,)."""
        # Magnitudes that add up to 1, so that the products of huge vectors stay in the range of float32.
        length = direction.double().abs().sum()
        unit = direction.double() / length.clamp_min(torch.finfo(torch.float64).tiny)
        parts = [chunk @ unit.to(chunk.dtype) for _, chunk in self._cache.chunks()]
        return torch.cat([part.double() for part in parts]) * length if parts else direction.new_zeros(0)

    def squared_norms(self) -> Tensor:
        """(S,) float64."""
        parts = [torch.linalg.vector_norm(chunk, dim=1, dtype=torch.float64) for _, chunk in self._cache.chunks()]
        return torch.cat(parts).square() if parts else torch.zeros(0, dtype=torch.float64)


def _side_sums(vectors: Tensor, weights: Tensor, positive: Tensor) -> Tensor:
    """(2, H) float64 sums of w v over the sides; the product itself is in the precision of the vectors, or float32."""
    weights = side_weights(weights.double(), positive)
    totals = weights.sum(dim=1, keepdim=True)
    # Convex combinations of the vectors cannot leave their range; what scales them up is float64.
    shares = weights / totals.clamp_min(torch.finfo(torch.float64).tiny)
    vectors = vectors.to(accumulation_dtype(vectors.dtype))
    return (shares.to(vectors.dtype) @ vectors).double() * totals
