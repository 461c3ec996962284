"""Sliding windows by blocks, where what comes out is known; against inner products one by one in test_attention.py."""

import pytest
import torch

from workers.learner.sliding_window import sliding_window_attention


@pytest.mark.parametrize("length", [5, 8, 12, 13])
def test_a_query_that_prefers_nothing_gets_the_mean_of_its_window(length):
    """Whole blocks and a part of one; two sequences, and two heads for each of keys."""
    window = 4
    places = torch.arange(length, dtype=torch.float64).reshape(1, 1, length, 1)
    value = torch.cat([places, 100 + 2 * places])
    output = sliding_window_attention(
        torch.zeros(2, 2, length, 1, dtype=torch.float64), torch.randn_like(value), value, scaling=1.0, window=window
    )
    # of 0 to i while the window is not full, then of i - 3 to i
    expected = torch.tensor([i / 2 if i < window else i - 1.5 for i in range(length)], dtype=torch.float64)
    assert output.shape == (2, 2, length, 1)
    for head in range(2):
        torch.testing.assert_close(output[0, head, :, 0], expected)
        torch.testing.assert_close(output[1, head, :, 0], 100 + 2 * expected)
