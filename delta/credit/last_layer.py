"""The exact last-layer proxy: the gradient of a token's log-probability with respect to the whole LM head.

    v = (e_y - p) h^T                                         a (V, H) matrix per token, which is never written down

The row proxy keeps row y of it. The other rows say what else the policy would have said here, so tokens that share
their hidden state but not what they compete with are told apart. Weighted sums and inner products of such matrices are
products of the size of the LM head, a chunk of tokens at a time:

    sum w v   = (w (E - P))^T h                               (V, S) x (S, H)
    v . M     = (e_y - p)^T M h                               (S, H) x (H, V)
    |v|^2     = |e_y - p|^2 |h|^2

A common factor of all vectors changes no coefficient, so the inverse temperature of the gradient is left out.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from delta.credit.cache import RowCache, accumulation_dtype, chunk_rows
from delta.credit.space import Members
from delta.shapes import check_shape

Logits = Callable[[Tensor], Tensor]
"""(S, H) inputs of the LM head to (S, V) logits divided by the sampling temperature, as the old policy has them.

The inputs come in float32 or wider, whatever was appended: cast them to what the LM head wants.
"""


class LastLayerProxy(Members):
    """The space of the last-layer gradients (see `TokenSpace`); it keeps hidden states, (S, H), and tokens."""

    needs_lm_head = True

    def __init__(self, logits: Logits, cache: RowCache | None = None) -> None:
        """Start empty.

        Args:
            logits: The LM head; called in every sweep, so it must still be the old policy's.
            cache: Decides precision and place of the hidden states.
        """
        self._logits = logits
        self._cache = RowCache() if cache is None else cache
        super().__init__()
        self._targets: list[Tensor] = []
        self._hidden_size = 0
        self._dtype = torch.float32
        self._vocabulary = 0

    def append(self, hidden: Tensor, log_probs: Tensor, targets: Tensor, advantages: Tensor) -> None:
        """Take in tokens; probabilities are computed anew in every sweep."""
        check_shape(hidden, "S H")
        check_shape(log_probs, "S", S=hidden.shape[0])
        check_shape(targets, "S", S=hidden.shape[0])
        check_shape(advantages, "S", S=hidden.shape[0])
        # Where the logits are not finite, hidden states of zero give a residual that is.
        hidden = hidden.masked_fill(~torch.isfinite(log_probs).unsqueeze(1), torch.nan)
        hidden, usable = self._cache.append(hidden)
        self._hidden_size, self._dtype = hidden.shape[1], accumulation_dtype(hidden.dtype)
        self._admit(advantages, usable)
        self._targets.append(targets)

    def advantage_sums(self) -> Tensor:
        """(2, V, H)."""
        return self.sums(self.advantages.abs() * self.usable)

    def sums(self, weights: Tensor) -> Tensor:
        """(2, V, H), accumulated in float64 on a CPU and in float32 on a GPU, where two LM heads are large enough."""
        positive = self.advantages > 0
        device = positive.device
        dtype = torch.float64 if device.type == "cpu" else torch.float32
        total = torch.zeros(2, self._vocabulary_size(), self._hidden_size, dtype=dtype, device=device)
        for place, hidden, residual in self._residuals():
            weighted = hidden * weights[place].to(hidden.dtype).unsqueeze(1)
            for side, members in enumerate((positive[place], ~positive[place])):
                total[side] += residual[members].T @ weighted[members]
        return total

    def project(self, direction: Tensor) -> Tensor:
        """(S,) float64, for a direction (V, H)."""
        length = torch.linalg.vector_norm(direction, dtype=torch.float64)
        unit: Tensor | None = None
        parts = []
        for _, hidden, residual in self._residuals():
            if unit is None:
                unit = (direction / length.clamp_min(torch.finfo(direction.dtype).tiny)).to(hidden.dtype).T.contiguous()
            parts.append((residual * (hidden @ unit)).sum(dim=1, dtype=torch.float64))
        return torch.cat(parts) * length if parts else direction.new_zeros(0, dtype=torch.float64)

    def squared_norms(self) -> Tensor:
        """(S,) float64."""
        parts = [
            (residual.double().square().sum(dim=1) * hidden.double().square().sum(dim=1))
            for _, hidden, residual in self._residuals()
        ]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)

    def _residuals(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Chunks of hidden states (C, H) and e_y - p (C, V)."""
        targets = torch.cat(self._targets) if self._targets else torch.empty(0, dtype=torch.int64)
        rows = chunk_rows(max(self._vocabulary_size(), self._hidden_size), targets.device)
        for place, hidden in self._cache.chunks(rows=rows):
            residual = -torch.softmax(self._logits(hidden).to(hidden.dtype), dim=-1)
            # 1 - p(y) is what the other tokens have; the difference would be lost where p is within rounding of 1.
            chosen = targets[place].unsqueeze(1)
            residual.scatter_(1, chosen, 0.0)
            residual.scatter_(1, chosen, -residual.sum(dim=1, keepdim=True))
            yield place, hidden, residual

    def _vocabulary_size(self) -> int:
        if not self._targets:
            raise ValueError("a space needs one append, though it may be of no token: it tells the hidden size")
        if not self._vocabulary:
            probe = torch.zeros(1, self._hidden_size, dtype=self._dtype, device=self._targets[0].device)
            self._vocabulary = self._logits(probe).shape[1]
        return self._vocabulary
