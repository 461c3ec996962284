import math

import pytest
import torch

from delta.credit import token_vectors


def test_proxy_is_the_gradient_of_log_p_for_the_sampled_row() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens, hidden_size, vocabulary = 6, 5, 9
    head = torch.randn(vocabulary, hidden_size, dtype=torch.float64, generator=generator, requires_grad=True)
    hidden = torch.randn(tokens, hidden_size, dtype=torch.float64, generator=generator)
    sampled = torch.randint(vocabulary, (tokens,), generator=generator)
    log_probs = torch.log_softmax(hidden @ head.T, dim=-1)[torch.arange(tokens), sampled]
    expected = torch.stack(
        [
            torch.autograd.grad(log_prob, head, retain_graph=True)[0][token]
            for log_prob, token in zip(log_probs, sampled, strict=True)
        ]
    )
    torch.testing.assert_close(token_vectors(hidden, log_probs.detach()), expected)


@pytest.mark.parametrize("rest", [1e-3, 1e-6, 1e-12, 1e-30])
def test_proxy_keeps_one_minus_p_where_p_is_near_one(rest: float) -> None:
    log_probs = torch.tensor([math.log1p(-rest)], dtype=torch.float64).float()
    vectors = token_vectors(torch.tensor([[3.0, -2.0]]), log_probs)
    torch.testing.assert_close(vectors, torch.tensor([[3.0, -2.0]]) * rest, rtol=1e-4, atol=0)


def test_certain_token_has_no_gradient() -> None:
    assert torch.equal(token_vectors(torch.ones(1, 3), torch.zeros(1)).abs(), torch.zeros(1, 3))


def test_impossible_token_has_the_whole_hidden_state() -> None:
    hidden = torch.tensor([[1.0, -2.0, 3.0]])
    assert torch.equal(token_vectors(hidden, torch.tensor([-torch.inf])), hidden)
    torch.testing.assert_close(token_vectors(hidden, torch.tensor([-80.0])), hidden)


def test_proxy_keeps_the_dtype_of_the_hidden_states() -> None:
    vectors = token_vectors(torch.ones(2, 3, dtype=torch.bfloat16), torch.tensor([-0.5, -1e-5]))
    assert vectors.dtype == torch.bfloat16
    torch.testing.assert_close(vectors[:, 0].float(), torch.tensor([0.3935, 1e-5]), rtol=1e-2, atol=0)


def test_proxy_of_no_tokens_is_empty() -> None:
    assert token_vectors(torch.empty(0, 4), torch.empty(0)).shape == (0, 4)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="got shape"):
        token_vectors(torch.ones(2, 3), torch.ones(3))
    with pytest.raises(ValueError, match="got shape"):
        token_vectors(torch.ones(2, 3, 4), torch.ones(2))
