"""The warm start is cached by content, and the same seed makes the same model."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from workers.controller.console import RunConsole
from workers.warm_start.config import WarmStartModelConfig
from workers.warm_start.make import cache_key, example_batch, learning_rate_factor, warm_start
from workers.warm_start.tokenizer import byte_tokenizer

SMALL = WarmStartModelConfig(
    hidden_size=32, intermediate_size=64, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=16, steps=5, threads=1
)


def test_the_key_depends_on_settings_and_seed():
    key = cache_key(SMALL, seed=1)
    assert key == cache_key(replace(SMALL), seed=1)
    assert key != cache_key(SMALL, seed=2)
    assert key != cache_key(replace(SMALL, steps=6), seed=1)


def test_a_second_run_finds_the_first_ones_model(tmp_path, monkeypatch):
    monkeypatch.setenv("DELTA_CACHE", str(tmp_path))
    first = warm_start(SMALL, seed=1, console=RunConsole(quiet=True))
    written = (first / "model.safetensors").stat().st_mtime_ns
    assert warm_start(SMALL, seed=1, console=RunConsole(quiet=True)) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == written
    assert [path.name for path in first.parent.iterdir()] == [first.name]


def test_the_same_seed_makes_the_same_weights(tmp_path, monkeypatch):
    weights = []
    for cache in ("a", "b"):
        monkeypatch.setenv("DELTA_CACHE", str(tmp_path / cache))
        folder = warm_start(SMALL, seed=1, console=RunConsole(quiet=True))
        weights.append(AutoModelForCausalLM.from_pretrained(folder).state_dict())
    for name, weight in weights[0].items():
        assert torch.equal(weight, weights[1][name])


def test_loss_is_on_the_answers_only():
    from random import Random

    tokenizer = byte_tokenizer()
    token_ids, labels = example_batch(tokenizer, Random(0), size=8, talkative=False)
    for row, label in zip(token_ids, labels, strict=True):
        text = tokenizer.decode(row[label >= 0])
        prompt = tokenizer.decode(row[: int((label >= 0).nonzero()[0])])
        assert prompt.endswith("=")
        assert text.endswith("<eos>")
        assert "####" in text
        assert torch.equal(row[label >= 0], label[label >= 0])


@pytest.mark.parametrize("step", range(0, 100, 7))
def test_learning_rate_rises_then_falls_to_a_twentieth(step):
    config = replace(SMALL, steps=100, warmup_steps=10)
    assert 0 < learning_rate_factor(config, step) <= 1
    assert learning_rate_factor(config, 0) < 0.2
    assert learning_rate_factor(config, 99) == pytest.approx(0.05, abs=0.01)
