"""The warm start: a small Qwen3, taught by worked examples until it reasons in the right form but is often wrong.

Ordinary supervised learning in one process; what it makes is cached by content, so the same settings, seed and code
never train twice.
"""

import contextlib
import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

import delta.data.arithmetic
import delta.data.held_out
from delta.data.arithmetic import worked_example
from workers.controller.console import RunConsole
from workers.cpu_linear import use_onednn
from workers.warm_start import config as config_module
from workers.warm_start import tokenizer as tokenizer_module
from workers.warm_start.config import WarmStartModelConfig
from workers.warm_start.tokenizer import byte_tokenizer

IGNORE = -100
"""Label of positions without loss: prompts and pads."""


def warm_start(config: WarmStartModelConfig, *, seed: int, console: RunConsole) -> Path:
    """The folder of the warm-started model, from the cache or freshly made.

    Args:
        config: Size and schooling.
        seed: Of the initial weights and the examples.
        console: Where progress is shown.

    Returns:
        A folder in Hugging Face format.
    """
    folder = cache_folder() / f"{cache_key(config, seed=seed)}"
    if folder.exists():
        console.say(f"warm start: cached in {folder}")
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".making-"))
    try:
        with console.phase("warm start on worked examples", total=config.steps) as advance:
            for step in teach(config, seed=seed, folder=draft):
                advance(step)
        # Another run may have made the same model meanwhile; either copy will do.
        with contextlib.suppress(FileExistsError, OSError):
            draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def cache_folder() -> Path:
    """Where warm starts are kept: `$DELTA_CACHE`, else the user's cache folder."""
    base = os.environ.get("DELTA_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "delta-rlvr"
    return Path(base).expanduser() / "warm_start"


def cache_key(config: WarmStartModelConfig, *, seed: int) -> str:
    """A hash of everything the model is made of: settings, seed, and the source of what makes it."""
    digest = hashlib.sha256(repr((sorted(asdict(config).items()), seed, torch.__version__)).encode())
    sources = [delta.data.arithmetic.__file__, delta.data.held_out.__file__, __file__]
    for source in [*sources, config_module.__file__, tokenizer_module.__file__]:
        digest.update(Path(str(source)).read_bytes())
    return digest.hexdigest()[:16]


def teach(config: WarmStartModelConfig, *, seed: int, folder: Path) -> Iterator[int]:
    """Make and train the model, and write it to `folder`; yields the number of finished steps.

    Batches are drawn anew for every step, so no example is seen more often than chance has it.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    torch.manual_seed(seed)
    random = Random(f"lessons {seed}")
    tokenizer = byte_tokenizer()
    model = make_model(config, tokenizer)
    use_onednn(model)
    optimizer = torch.optim.AdamW(
        [
            {"params": [weight for weight in model.parameters() if weight.dim() > 1], "weight_decay": 0.01},
            {"params": [gain for gain in model.parameters() if gain.dim() == 1], "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=(0.9, 0.95),
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(config, step))
    for step in range(config.steps):
        token_ids, labels = example_batch(tokenizer, random, size=config.batch_size, talkative=config.talkative)
        logits = model(input_ids=token_ids, use_cache=False).logits
        loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        yield step + 1
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    torch.set_num_threads(threads)


def make_model(config: WarmStartModelConfig, tokenizer: PreTrainedTokenizerBase) -> Qwen3ForCausalLM:
    """An untrained Qwen3 of the configured size."""
    return Qwen3ForCausalLM(model_config(config, tokenizer))


def model_config(config: WarmStartModelConfig, tokenizer: PreTrainedTokenizerBase) -> Qwen3Config:
    """The configured size in transformers' words."""
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        max_position_embeddings=config.max_positions,
        tie_word_embeddings=config.tie_embeddings,
        initializer_range=config.initializer_range,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )


def learning_rate_factor(config: WarmStartModelConfig, step: int) -> float:
    """Linear warm-up, then a cosine down to a twentieth."""
    cosine = 0.525 + 0.475 * math.cos(math.pi * step / config.steps)
    return min((step + 1) / config.warmup_steps, 1.0) * cosine


def example_batch(
    tokenizer: PreTrainedTokenizerBase, random: Random, *, size: int, talkative: bool
) -> tuple[Tensor, Tensor]:
    """Token ids (B, T) and labels (B, T) of freshly drawn worked examples; loss on the answers only."""
    rows, starts = [], []
    for _ in range(size):
        prompt, response = worked_example(random, talkative=talkative)
        prompt_ids, response_ids = tokenizer.encode(prompt), tokenizer.encode(response)
        rows.append([*prompt_ids, *response_ids, tokenizer.eos_token_id])
        starts.append(len(prompt_ids))
    width = max(map(len, rows))
    token_ids = torch.full((size, width), tokenizer.pad_token_id)
    labels = torch.full((size, width), IGNORE)
    for place, (row, start) in enumerate(zip(rows, starts, strict=True)):
        token_ids[place, : len(row)] = torch.tensor(row)
        labels[place, start : len(row)] = torch.tensor(row[start:])
    return token_ids, labels
