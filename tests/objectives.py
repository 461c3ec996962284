"""Token records written as plain lists, their shards, and derivatives that know nothing of autograd."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields

import torch
from torch import Tensor

from delta.tokens import OldTokens
from tests.factories import make_tokens

Values = Sequence[float] | Tensor


def old_tokens(
    log_probs: Values,
    *,
    row_lengths: Iterable[int] | None = None,
    loss_mask: Sequence[bool] | Tensor | None = None,
    dtype: torch.dtype = torch.float64,
    **values: Values,
) -> OldTokens:
    """Tokens of rows of the given lengths; the rest as in `make_tokens`, each of them a list or a tensor."""
    log_probs = torch.as_tensor(log_probs, dtype=dtype)
    lengths = torch.tensor([len(log_probs)] if row_lengths is None else list(row_lengths), dtype=torch.int64)
    assert lengths.sum() == len(log_probs)
    return make_tokens(
        log_probs=log_probs,
        rows=torch.repeat_interleave(torch.arange(len(lengths)), lengths),
        loss_mask=None if loss_mask is None else torch.as_tensor(loss_mask, dtype=torch.bool),
        **{name: torch.as_tensor(value, dtype=dtype) for name, value in values.items()},
    )


def of_rows(tokens: OldTokens, rows: Iterable[int]) -> tuple[OldTokens, Tensor]:
    """The tokens of some rows, whose numbers start at 0 again, and (S,) bool where they were."""
    chosen = torch.isin(tokens.rows, torch.tensor(list(rows), dtype=torch.int64))
    values = {field.name: getattr(tokens, field.name) for field in fields(OldTokens)}
    kept = {name: None if value is None else value[chosen] for name, value in values.items()}
    kept["rows"] = torch.unique_consecutive(kept["rows"], return_inverse=True)[1]
    return OldTokens(**kept), chosen


def central_differences(function: Callable[[list[float]], float], at: Sequence[float], *, step: float = 1e-6) -> Tensor:
    """(S,) float64 derivatives of a function of S plain floats."""
    derivatives = []
    for place in range(len(at)):
        above, below = list(at), list(at)
        above[place] += step
        below[place] -= step
        derivatives.append((function(above) - function(below)) / (2 * step))
    return torch.tensor(derivatives, dtype=torch.float64)
