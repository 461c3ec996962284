"""The examples of the documentation run, and do what the text beside them says."""

import re

import pytest
import torch
import torch.distributed

from tests.conftest import ROOT


def test_credit_from_another_trainer(tmp_path):
    whole, per_rank = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "credit.md").read_text(), re.DOTALL)
    torch.manual_seed(0)
    names = {
        "hidden": torch.randn(4, 6, 8),
        "log_probs": -torch.rand(4, 6),
        "advantages": torch.tensor([1.0, -1.0, 0.0, 0.5]),
        "loss_mask": torch.rand(4, 6) > 0.3,
        "objective": torch.randn(4, 6),
    }
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        exec(whole, names)
        exec(per_rank, names)
    finally:
        torch.distributed.destroy_process_group()
    coefficients = names["coefficients"]
    assert coefficients[names["loss_mask"]].mean().item() == pytest.approx(1.0)
    assert not coefficients[~names["loss_mask"]].any()
    assert torch.isfinite(names["loss"])
    torch.testing.assert_close(names["credit"].coefficients, coefficients[names["loss_mask"]][names["sided"]])
