"""Terms of rollouts of uneven length, some off the loss mask; and what an aggregation must make of them."""

import torch

from delta.aggregations import AggregationConfig, MiniBatch
from delta.losses import weighted_sum
from tests.objectives import of_rows, old_tokens

TERMS = [[0.5], [2.0, -1.0, 4.0], [8.0, 0.25], [-3.0, 1.5, -0.125, 7.0, 0.75]]
IN_LOSS = [[True], [True, False, True], [False, False], [True, True, True, True, False]]


def rows_of_terms() -> list[list[float]]:
    """The terms on the loss mask, row by row; one row has none."""
    return [[term for term, counts in zip(*row, strict=True) if counts] for row in zip(TERMS, IN_LOSS, strict=True)]


def assert_follows(config: AggregationConfig, expected: float) -> None:
    """The weighted sum is the expected number, for the whole batch and in shards of its rows."""
    tokens = old_tokens(
        [term for row in TERMS for term in row],
        row_lengths=[len(row) for row in TERMS],
        loss_mask=[counts for row in IN_LOSS for counts in row],
    )
    mini_batch = MiniBatch(tokens=int(tokens.loss_mask.sum()), rows=tokens.loss_rows)
    assert (mini_batch.tokens, mini_batch.rows) == (7, 3)
    for shards in ([range(4)], [[0], [1], [2], [3]], [[0, 3], [1, 2]], [[], [1, 2, 3], [0]]):
        total = torch.zeros((), dtype=torch.float64)
        for rows in shards:
            part, _ = of_rows(tokens, rows)
            weights = config.weights(part.row_tokens, mini_batch)
            assert weights.shape == part.rows.shape
            total += weighted_sum(part.log_probs, part.loss_mask.double(), weights)
        torch.testing.assert_close(total, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-7)
