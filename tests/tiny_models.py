"""Tiny random models of every architecture that is tried, in Hugging Face format, with the project's own tokenizer.

Each differs from the others where implementations go wrong: more query heads than key heads, heads that are not
hidden / heads wide, biases, gains that are not one, attention windows shorter than the texts, experts.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    Olmo3Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from workers.warm_start.tokenizer import byte_tokenizer

WINDOW = 24
"""Attention window of OLMo-3's sliding layers here: most answers of a test are longer."""

_SIZE = {
    "hidden_size": 128,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
}

_FAMILIES: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "qwen3": (Qwen3Config, {"hidden_size": 64, "head_dim": 32}),
    "qwen2": (Qwen2Config, {}),
    "llama": (
        LlamaConfig,
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10_000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "olmo3": (
        Olmo3Config,
        {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": WINDOW},
    ),
    "qwen3_moe": (
        Qwen3MoeConfig,
        {
            "hidden_size": 64,
            "head_dim": 32,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "norm_topk_prob": True,
            "moe_intermediate_size": 32,
        },
    ),
}

FAMILIES = tuple(_FAMILIES)
"""`model_type` of each."""


def tiny_config(family: str, *, tied: bool = False, **changes: Any) -> PreTrainedConfig:
    """Configuration of the tiny model of a family."""
    tokenizer = byte_tokenizer()
    kind, particular = _FAMILIES[family]
    return kind(
        **{
            **_SIZE,
            **particular,
            "vocab_size": len(tokenizer),
            "tie_word_embeddings": tied,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": None,
            **changes,
        }
    )


def tiny_model(family: str, *, tied: bool = False, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random model in which biases and gains are random too: initialised as usual they would be zeros and ones."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(family, tied=tied, **changes), dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def save_tiny(folder: Path, family: str, *, tied: bool = False, seed: int = 0, **changes: Any) -> Path:
    """The same with its tokenizer on disk."""
    tiny_model(family, tied=tied, seed=seed, **changes).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder
