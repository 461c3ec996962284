"""The algorithm library stands alone: it imports and works where only torch and NumPy are installed."""

import pkgutil
import subprocess
import sys

import delta
from tests.conftest import ROOT

STACK = ("ray", "vllm", "deepspeed", "hydra", "omegaconf", "transformers", "wandb", "datasets", "workers", "launch")

SCRIPT = f"""
import importlib, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {STACK!r}:
            raise ImportError(name + " is not installed here")

sys.meta_path.insert(0, Refuse())
for name in sys.argv[1:]:
    importlib.import_module(name)

import torch
from delta.credit import discriminative_coefficients, token_vectors

hidden, log_probs = torch.randn(50, 8), -torch.rand(50)
coefficients = discriminative_coefficients(token_vectors(hidden, log_probs), torch.randn(50))
assert abs(coefficients.mean().item() - 1) < 1e-5
print("stands alone")
"""


def test_every_module_imports_without_the_stack():
    names = [info.name for info in pkgutil.walk_packages(delta.__path__, "delta.")]
    assert "delta.credit.discriminative" in names
    finished = subprocess.run(
        [sys.executable, "-c", SCRIPT, "delta", *names], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert finished.stdout.strip() == "stands alone", finished.stderr[-2000:]
