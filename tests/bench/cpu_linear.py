"""Float32 linear layers through torch's BLAS and through oneDNN, one thread, forward and backward, as JSON.

python -m tests.bench.cpu_linear
"""

import json
import statistics
import time

import torch
from torch import nn

from tests.bench.parts import machine
from workers.cpu_linear import use_onednn

SHAPES = ((512, 128, 384), (2048, 128, 384), (2048, 384, 128), (2048, 1024, 1024))
REPEATS = 30


def seconds(layer: nn.Linear, rows: torch.Tensor) -> float:
    """One forward and backward pass."""
    started = time.perf_counter()
    layer(rows).sum().backward()
    return time.perf_counter() - started


def main() -> None:
    torch.set_num_threads(1)
    results = []
    for tokens, inputs, outputs in SHAPES:
        rows = torch.randn(tokens, inputs, requires_grad=True)
        blas, onednn = nn.Linear(inputs, outputs, bias=False), nn.Linear(inputs, outputs, bias=False)
        use_onednn(onednn)
        pairs = [(seconds(blas, rows), seconds(onednn, rows)) for _ in range(5 + REPEATS)][5:]
        ratios = [slow / quick for slow, quick in pairs]
        results.append(
            {
                "tokens": tokens,
                "inputs": inputs,
                "outputs": outputs,
                "blas_ms": round(1e3 * statistics.median(slow for slow, _ in pairs), 3),
                "onednn_ms": round(1e3 * statistics.median(quick for _, quick in pairs), 3),
                "blas_over_onednn": round(statistics.median(ratios), 2),
                "blas_over_onednn_quartiles": [round(value, 2) for value in statistics.quantiles(ratios, n=4)[::2]],
            }
        )
    print(json.dumps({"machine": machine(), "shapes": results}, indent=1))


if __name__ == "__main__":
    main()
