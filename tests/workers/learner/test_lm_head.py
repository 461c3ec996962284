"""The chunked LM head against all logits at once."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from delta.errors import ConfigError
from workers.cpu_linear import OneDnnLinear
from workers.learner.lm_head import LMHead


class Model:
    """As much of a causal LM as the head asks for."""

    def __init__(self, head: nn.Module) -> None:
        self.head = head

    def get_output_embeddings(self) -> nn.Module:
        return self.head


def make_head(
    *, chunk: int, bias: bool = False, dtype: torch.dtype = torch.float64, temperature: float = 0.7
) -> LMHead:
    torch.manual_seed(3)
    return LMHead.adopt(Model(nn.Linear(6, 23, bias=bias, dtype=dtype)), temperature=temperature, chunk_tokens=chunk)


def at_once(head: LMHead, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Plain autograd over the (S, V) table."""
    logits = nn.functional.linear(hidden, head.weight, head.bias).float() / head.temperature
    table = torch.log_softmax(logits, dim=-1)
    return table.gather(1, targets[:, None]).squeeze(1), -(table.exp() * table).sum(-1)


def tokens(count: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    hidden = torch.randn(count, 6, generator=generator, dtype=dtype) * 2
    return hidden.requires_grad_(), torch.randint(0, 23, (count,), generator=generator)


@pytest.mark.parametrize("chunk", [1, 4, 11, 100])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("with_entropy", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chunks_change_neither_values_nor_gradients(chunk: int, bias: bool, with_entropy: bool, dtype) -> None:
    head = make_head(chunk=chunk, bias=bias, dtype=dtype)
    hidden, targets = tokens(11, dtype)
    parameters = [hidden, *head.parameters()]
    log_probs, entropy = head(hidden, targets, with_entropy)
    expected_log_probs, expected_entropy = at_once(head, hidden, targets)
    torch.testing.assert_close(log_probs, expected_log_probs)
    weights = torch.linspace(-2, 1, 11)
    loss, expected = (log_probs * weights).sum(), (expected_log_probs * weights).sum()
    if with_entropy:
        torch.testing.assert_close(entropy, expected_entropy, atol=1e-5, rtol=1e-5)
        loss = loss + (entropy * weights.flip(0)).sum()
        expected = expected + (expected_entropy * weights.flip(0)).sum()
    else:
        assert entropy is None
    for ours, reference in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(ours, reference, atol=2e-5, rtol=1e-4)


def test_entropy_that_nobody_trains_on_costs_no_gradient() -> None:
    head = make_head(chunk=4)
    hidden, targets = tokens(11)
    with_entropy, _ = head(hidden, targets, True)
    without, _ = head(hidden, targets)
    (ours,) = torch.autograd.grad(with_entropy.sum(), hidden)
    (reference,) = torch.autograd.grad(without.sum(), hidden)
    assert torch.equal(ours, reference)


def test_no_tokens_still_give_every_parameter_a_gradient() -> None:
    # ZeRO-3 reduces a gradient over the ranks when it arrives: a rank without tokens must deliver one, too.
    head = make_head(chunk=4, bias=True)
    hidden, targets = tokens(0)
    log_probs, entropy = head(hidden, targets, True)
    (log_probs.sum() + entropy.sum()).backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in head.parameters())


def test_a_frozen_head_gets_no_gradient() -> None:
    head = make_head(chunk=4)
    head.requires_grad_(False)
    hidden, targets = tokens(9)
    head(hidden, targets)[0].sum().backward()
    assert head.weight.grad is None
    assert hidden.grad.abs().sum() > 0


def test_logits_of_one_token_are_those_of_the_layer() -> None:
    head = make_head(chunk=4, bias=True)
    hidden, _ = tokens(5)
    expected = nn.functional.linear(hidden, head.weight, head.bias).float() / 0.7
    torch.testing.assert_close(head.logits(hidden), expected)


def test_bfloat16_weights_sum_their_gradient_in_float32() -> None:
    head = make_head(chunk=1, dtype=torch.bfloat16)
    hidden, targets = tokens(300, torch.bfloat16)
    head(hidden, targets)[0].sum().backward()
    exact = make_head(chunk=300, dtype=torch.float64)
    with torch.no_grad():
        exact.weight.copy_(head.weight)
    wide = hidden.detach().double()
    exact(wide, targets)[0].sum().backward()
    # One rounding at the end and one per chunk's product; 300 additions in bfloat16 would lose whole digits.
    error = (head.weight.grad.double() - exact.weight.grad).abs().max() / exact.weight.grad.abs().max()
    assert error < 0.01


class Largest(TorchDispatchMode):
    """The largest tensor that any operation makes, in elements."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_no_tensor_has_all_tokens_and_the_whole_vocabulary() -> None:
    count, chunk = 200, 10
    head = make_head(chunk=chunk)
    hidden, targets = tokens(count)
    with Largest() as largest:
        log_probs, entropy = head(hidden, targets, True)
        torch.autograd.grad((log_probs + entropy).sum(), [hidden, head.weight])
    assert largest.elements == max(count * 6, chunk * 23)
    with Largest() as largest:
        at_once(head, hidden, targets)
    assert largest.elements == count * 23


@pytest.mark.parametrize("layer", [nn.Linear, OneDnnLinear])
def test_a_linear_layer_becomes_the_head_and_keeps_its_parameters(layer) -> None:
    plain = layer(6, 23)
    weight = plain.weight
    assert LMHead.adopt(Model(plain), temperature=1.0, chunk_tokens=8) is plain
    assert plain.weight is weight


def test_another_kind_of_head_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"LM head of Model is a Bilinear; expected a plain linear layer"):
        LMHead.adopt(Model(nn.Bilinear(2, 2, 2)), temperature=1.0, chunk_tokens=8)
