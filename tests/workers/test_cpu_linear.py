"""oneDNN layers are linear layers: same values, same gradients, same parameters."""

import pytest
import torch
from torch import nn

from workers.cpu_linear import OneDnnLinear, use_onednn


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7,), (3, 5), (0,), (2, 0)], ids=str)
def test_values_and_gradients_are_those_of_a_linear_layer(bias, shape):
    torch.manual_seed(0)
    layer = nn.Linear(16, 24, bias=bias)
    rows = torch.randn(*shape, 16, requires_grad=True)
    expected = layer(rows)
    expected.square().sum().backward()
    expected_gradients = [rows.grad.clone(), *(parameter.grad.clone() for parameter in layer.parameters())]

    rows.grad = None
    layer.zero_grad()
    use_onednn(layer)
    assert isinstance(layer, OneDnnLinear)
    found = layer(rows)
    found.square().sum().backward()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for gradient, other in zip([rows.grad, *(p.grad for p in layer.parameters())], expected_gradients, strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-4, rtol=1e-4)


def test_other_precisions_and_subclasses_are_left_alone():
    class Special(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(4, 4, dtype=torch.bfloat16), Special(4, 4))
    use_onednn(model)
    assert type(model[0]) is nn.Linear
    assert type(model[1]) is Special


def test_frozen_weights_pass_the_gradient_on_and_cost_no_product(monkeypatch):
    import workers.cpu_linear

    layer = nn.Linear(16, 24)
    layer.requires_grad_(False)
    use_onednn(layer)
    rows = torch.randn(7, 16, requires_grad=True)
    output = layer(rows)
    products = []
    real = workers.cpu_linear._onednn
    monkeypatch.setattr(workers.cpu_linear, "_onednn", lambda *args: products.append(args) or real(*args))
    output.sum().backward()
    torch.testing.assert_close(rows.grad, layer.weight.sum(dim=0).expand(7, 16))
    assert len(products) == 1
    assert layer.weight.grad is None
