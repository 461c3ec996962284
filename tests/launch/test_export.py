"""A checkpoint of two real ranks as a Hugging Face model: the same policy, loaded by transformers alone."""

import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from delta.errors import CheckpointError, ConfigError, ModelError, StorageError
from launch.export import export, main
from tests.conftest import ROOT, files_up_to
from tests.workers.learner.ranks import run_ranks
from tests.workers.learner.test_engine import loss_of, micro_batch
from workers.controller.checkpoints import CheckpointStore, Manifest
from workers.files import digests, files_in
from workers.learner.checkpoint import LEARNER, MODEL, LearnerState, write_description, write_state
from workers.learner.config import LearnerConfig
from workers.learner.engine import create_engine
from workers.learner.lora import LoraConfig, add_adapters
from workers.learner.policy import Policy
from workers.weights.source import Zero3Source


def train_rank(rank: int, path, draft: str, dtype: torch.dtype, frozen: str, lora: LoraConfig):
    """Two updates, this rank's part of a checkpoint, and what the learner then is and says."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not (frozen and frozen in name))
    if lora.rank:
        add_adapters(model, lora, model_path=str(path))
    engine = create_engine(Policy(model, temperature=1.0), LearnerConfig(learning_rate=1e-2))
    for step in range(2):
        engine.backward(loss_of(engine, micro_batch(step)))
        engine.step()
    write_state(LearnerState(engine, model).stage(), Path(draft) / LEARNER, rank=rank)
    if rank == 0:
        write_description(model, AutoTokenizer.from_pretrained(path), Path(draft) / MODEL)
    weights = {name: weight.clone() for name, weight in Zero3Source(model)}
    engine.eval()
    with torch.no_grad():
        return weights, engine(micro_batch(7)).log_probs


def checkpoint_of(path: Path, run_dir: Path, *, dtype: torch.dtype = torch.float32, frozen: str = "", **lora):
    """A published checkpoint in `run_dir`, and the learner's weights and log-probabilities."""
    store = CheckpointStore(run_dir / "checkpoints", keep=2)
    draft = store.begin(2)
    learned, _ = run_ranks(train_rank, path, str(draft), dtype, frozen, LoraConfig(**lora), ranks=2)
    files = digests(draft, files_in(draft))
    manifest = Manifest(
        step=2,
        prompts=16,
        ranks=2,
        model=str(path),
        trajectory={f"learner.lora.{name}": value for name, value in asdict(LoraConfig(**lora)).items()},
        weights_hash="",
        versions={},
        files=files,
    )
    return store.publish(draft, manifest), *learned


def log_probs_of(model) -> torch.Tensor:
    """Plain transformers on the first row of the micro-batch that the learner was asked about."""
    token_ids = torch.randint(0, 256, (2, 24), generator=torch.Generator().manual_seed(7))[:1]
    with torch.no_grad():
        table = torch.log_softmax(model(token_ids).logits[0, :-1].float(), dim=-1)
    return table.gather(1, token_ids[0, 1:, None]).squeeze(1)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "tied", "tolerance"), [(torch.float32, True, 1e-5), (torch.bfloat16, False, 5e-2)], ids=["tied", "bf16"]
)
def test_one_command_writes_the_policy_that_the_learner_has(make_model, tmp_path, dtype, tied, tolerance):
    run_dir, target = tmp_path / "run", tmp_path / "exported"
    path = make_model(tie_embeddings=tied)
    _, weights, expected = checkpoint_of(path, run_dir, dtype=dtype)
    finished = subprocess.run(
        [sys.executable, "-m", "launch.export", str(run_dir), str(target)], cwd=ROOT, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    assert "step-000002 -> " in finished.stdout

    model = AutoModelForCausalLM.from_pretrained(target).eval()
    assert model.dtype is dtype
    found = dict(model.named_parameters())
    assert found.keys() == weights.keys()
    assert all(found[name].equal(weight) for name, weight in weights.items())
    torch.testing.assert_close(log_probs_of(model), expected[:23], atol=tolerance, rtol=0)
    before = AutoModelForCausalLM.from_pretrained(path).eval()
    assert (log_probs_of(before) - expected[:23]).abs().max() > 0.5
    assert AutoTokenizer.from_pretrained(target).encode("12+34=") == AutoTokenizer.from_pretrained(path).encode(
        "12+34="
    )


@pytest.mark.ray
@pytest.mark.slow
def test_frozen_weights_are_those_of_the_model_the_run_began_with(make_model, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(make_model(), base)
    folder, weights, expected = checkpoint_of(base, tmp_path / "run", frozen="layers.1.mlp.down_proj")
    moved = base.rename(tmp_path / "moved")
    with pytest.raises(ModelError, match=rf"frozen ones are those of {base}, which cannot be loaded .*--base PATH"):
        export(folder, tmp_path / "out")
    assert export(folder, tmp_path / "out", base=str(moved)) == folder
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(log_probs_of(model), expected[:23], atol=1e-5, rtol=0)
    frozen = model.model.layers[1].mlp.down_proj.weight
    assert frozen.equal(weights["model.layers.1.mlp.down_proj.weight"])
    assert frozen.equal(AutoModelForCausalLM.from_pretrained(moved).model.layers[1].mlp.down_proj.weight)

    next((folder / LEARNER).glob("weights-*")).write_bytes(b"")
    with pytest.raises(CheckpointError, match="has 0 bytes"):
        export(folder, tmp_path / "other", base=str(moved))
    assert not (tmp_path / "other").exists()


@pytest.mark.ray
@pytest.mark.slow
def test_adapters_are_merged(make_model, tmp_path):
    path = make_model()
    folder, weights, expected = checkpoint_of(path, tmp_path / "run", rank=4)
    (shard, *_) = (folder / LEARNER).glob("weights-*")
    assert all(".lora_" in name for name in load_file(shard))
    export(folder, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    found = dict(model.named_parameters())
    assert found.keys() == weights.keys()
    assert all(found[name].equal(weight) for name, weight in weights.items())
    torch.testing.assert_close(log_probs_of(model), expected[:23], atol=1e-4, rtol=0)
    before = AutoModelForCausalLM.from_pretrained(path).eval()
    assert (log_probs_of(before) - expected[:23]).abs().max() > 0.1

    with files_up_to(4096), pytest.raises(StorageError, match=r"cannot write .*none: .*Free space or choose another"):
        export(folder, tmp_path / "none")
    assert not list(tmp_path.glob("*none")) + list(tmp_path.glob(".exporting-*"))


def test_what_cannot_be_exported_is_refused_without_a_trace(tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    with pytest.raises(ConfigError, match="exists and is not empty"):
        export(tmp_path, tmp_path / "full")
    with pytest.raises(SystemExit) as exit_:
        main([str(tmp_path / "nowhere"), str(tmp_path / "out")])
    assert exit_.value.code == 2
    assert "neither a checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
