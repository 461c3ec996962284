"""Float32 linear layers through oneDNN instead of the BLAS that torch was built with.

torch multiplies float32 matrices with MKL, which leaves AVX-512 unused on processors that are not Intel's; oneDNN,
which vLLM's CPU kernels use as well, does not. On an EPYC the same product takes less than half the time
(`python -m tests.bench.cpu_linear` measures it on this machine). Results are float32 either way.
"""

from typing import Any

import torch
from torch import Tensor, nn


class _OneDnnLinear(torch.autograd.Function):
    """y = x W^T + b, and its gradients, each as one oneDNN product."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, weight)
        ctx.has_bias = bias is not None
        return _onednn(rows, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (gradient,) = gradients
        rows, weight = ctx.saved_tensors
        wants_rows, wants_weight, wants_bias = ctx.needs_input_grad  # frozen weights want nothing
        flat = gradient.flatten(0, -2)
        return (
            _onednn(gradient, weight.t(), None) if wants_rows else None,
            _onednn(flat.t(), rows.flatten(0, -2).t(), None) if wants_weight else None,
            flat.sum(dim=0) if ctx.has_bias and wants_bias else None,
        )


def product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(S, K) rows times the transpose of a (N, K) weight, plus a bias, on the way that is fast here; not recorded."""
    if _suits(weight) and rows.numel():
        return _onednn(rows, weight, bias)
    return torch.nn.functional.linear(rows, weight, bias)


def _suits(weight: Tensor) -> bool:
    return weight.dtype is torch.float32 and weight.device.type == "cpu" and torch.backends.mkldnn.is_available()


def _onednn(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")


class OneDnnLinear(nn.Linear):
    """`nn.Linear` that computes with oneDNN; same parameters, same names."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer; an empty input takes torch's way, oneDNN refuses it."""
        if not input.numel():
            return super().forward(input)
        output: Tensor = _OneDnnLinear.apply(input, self.weight, self.bias)
        return output


def use_onednn(model: nn.Module) -> None:
    """Let the float32 linear layers of a model on the CPU compute with oneDNN, where torch has it; in place."""
    for module in model.modules():
        if type(module) is nn.Linear and _suits(module.weight):
            module.__class__ = OneDnnLinear
