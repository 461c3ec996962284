"""The examples of the documentation run, and do what the text beside them says."""

import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
import torch.distributed

from tests.conftest import ROOT


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / name).read_text(), re.DOTALL)


def test_credit_from_another_trainer(tmp_path):
    whole, per_rank = blocks("credit.md", "python")
    torch.manual_seed(0)
    names = {
        "hidden": torch.randn(4, 6, 8),
        "log_probs": -torch.rand(4, 6),
        "advantages": torch.tensor([1.0, -1.0, 0.0, 0.5]),
        "loss_mask": torch.rand(4, 6) > 0.3,
        "objective": torch.randn(4, 6),
        "tokens": torch.randint(9, (4, 6)),
    }
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        exec(whole, names)
        at_once = names["coefficients"]
        exec(per_rank, names)
    finally:
        torch.distributed.destroy_process_group()
    assert at_once[names["loss_mask"]].mean().item() == pytest.approx(1.0)
    assert not at_once[~names["loss_mask"]].any()
    assert torch.isfinite(names["loss"])
    torch.testing.assert_close(names["coefficients"], at_once, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_an_estimator_is_added_with_three_files(tmp_path):
    """In a copy of the sources: the example's files are found, configured and tested without touching any other."""
    for folder in ("delta", "workers", "launch", "conf", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    estimator, test = blocks("algorithms.md", "python")
    (settings,) = blocks("algorithms.md", "yaml")
    (tmp_path / "delta" / "credit" / "surprise.py").write_text(estimator)
    (tmp_path / "conf" / "credit" / "surprise.yaml").write_text(settings)
    (tmp_path / "tests" / "delta" / "credit" / "test_surprise.py").write_text(test)

    def run(*arguments: str) -> str:
        finished = subprocess.run(
            [sys.executable, "-P", "-m", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
        )
        assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-3000:]
        return finished.stdout

    shown = run("launch.train", "--cfg", "job", "credit=surprise", "credit.power=2")
    assert "credit:\n  power: 2.0\n" in shown
    assert "1 passed" in run("pytest", "-q", "-p", "no:cacheprovider", "tests/delta/credit/test_surprise.py")
