"""A checkpoint as a Hugging Face model: `python -m launch.export CHECKPOINT_OR_RUN OUT`, console script `delta-export`.

One process reads the shards of all ranks, whatever their number; no Ray, no GPU, no process group. Memory for the whole
model in its own precision is needed.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from delta.errors import CheckpointError, ConfigError, ModelError
from launch.command import errors_explained
from workers.controller.checkpoints import Manifest, find_checkpoint, read_manifest
from workers.files import storage_errors
from workers.learner.lora import LoraConfig


def export(source: Path, target: Path, *, base: str | None = None) -> Path:
    """Write the policy of a checkpoint in Hugging Face format: config, tokenizer, safetensors.

    Args:
        source: A checkpoint, or a run folder, of which the newest checkpoint is taken.
        target: A folder that does not exist, or is empty; it appears when everything is in it.
        base: Model that the run began with, if it is not where the checkpoint says; for frozen weights only.

    Returns:
        The checkpoint.

    Raises:
        CheckpointError: There is none, or it is damaged, foreign or of another format.
        ConfigError: `target` has files in it.
        ModelError: Some weights were frozen, and the model they are from is not there.
        StorageError: `target` cannot be written.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} exists and is not empty. Choose another folder.")
    checkpoint = find_checkpoint(source)
    manifest = read_manifest(checkpoint)
    model = assemble(checkpoint, manifest, base=base)
    with storage_errors(f"cannot write {target}", remedy="Free space or choose another folder."):
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=target.parent, prefix=".exporting-"))
        try:
            shutil.copytree(checkpoint / "model", draft, dirs_exist_ok=True)
            model.save_pretrained(draft)
            draft.chmod(0o755)  # mkdtemp's folders are their owner's only
            if target.exists():
                target.rmdir()
            draft.rename(target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return checkpoint


def assemble(checkpoint: Path, manifest: Manifest, *, base: str | None = None) -> Any:
    """The policy of a checkpoint as a transformers model, in the precision it was trained in; adapters are merged.

    Args:
        checkpoint: Its folder.
        manifest: Its manifest.
        base: See `export`.

    Raises:
        ModelError: Some weights were frozen, and the model they are from is not there.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    from workers.learner.checkpoint import LEARNER, MODEL, Shards, read_index

    index = read_index(checkpoint / LEARNER)
    dtype = getattr(torch, index.dtype)
    shards = Shards(checkpoint / LEARNER, index)
    trained = {name: shards.whole_weight(name).to(dtype) for name in index.shapes}
    weights = _merged(trained, checkpoint, manifest, base=base) if _lora_of(manifest).rank else trained
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(checkpoint / MODEL), dtype=dtype)
    if {name for name, _ in model.named_parameters()} - weights.keys():
        model = _base_model(checkpoint, manifest, base=base, dtype=dtype)
    _take_over(model, weights, checkpoint)
    model.tie_weights()
    if (checkpoint / MODEL / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(checkpoint / MODEL)
    return model


def _merged(trained: dict[str, Any], checkpoint: Path, manifest: Manifest, *, base: str | None) -> dict[str, Any]:
    """Weights of the model with the adapters added, as the engines were sent them."""
    from workers.learner.lora import add_adapters, policy_weights

    dtype = next(iter(trained.values())).dtype
    adapted = _base_model(checkpoint, manifest, base=base, dtype=dtype)
    add_adapters(adapted, _lora_of(manifest), model_path=manifest.model)
    _take_over(adapted, trained, checkpoint)
    return {name: weight.value().detach() for name, weight in policy_weights(adapted).items()}


def _lora_of(manifest: Manifest) -> LoraConfig:
    prefix = "learner.lora."
    return LoraConfig(
        **{name.removeprefix(prefix): value for name, value in manifest.trajectory.items() if name.startswith(prefix)}
    )


def _base_model(checkpoint: Path, manifest: Manifest, *, base: str | None, dtype: Any) -> Any:
    from transformers import AutoModelForCausalLM

    path = base or manifest.model
    try:
        return AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{checkpoint} holds trained weights only; the frozen ones are those of {path}, which cannot be loaded "
            f"({str(error).splitlines()[0]}). Say where that model is: --base PATH."
        ) from error


def _take_over(model: Any, weights: dict[str, Any], checkpoint: Path) -> None:
    unknown = model.load_state_dict(weights, strict=False, assign=True).unexpected_keys
    if unknown:
        raise CheckpointError(f"{checkpoint} has weights that its model has no place for: {', '.join(unknown[:3])}.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="delta-export",
        description="Write the policy of a checkpoint in Hugging Face format: config, tokenizer and safetensors.",
        epilog="example: delta-export runs/my-run my-model",
    )
    parser.add_argument("source", metavar="CHECKPOINT_OR_RUN", type=Path, help="of a run, the newest checkpoint")
    parser.add_argument("target", metavar="OUT", type=Path, help="a new folder")
    parser.add_argument(
        "--base", metavar="MODEL", help="the model that the run began with, if it was moved; for frozen weights only"
    )
    options = parser.parse_args(arguments)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    with errors_explained():
        checkpoint = export(options.source, options.target, base=options.base)
    sys.stdout.write(f"{checkpoint} -> {options.target}\n")


if __name__ == "__main__":
    main()
