"""The sizes of a model, from its configuration alone."""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Sizes of a causal LM."""

    parameters: int
    """Tied weights once."""
    largest_group: int
    """Elements that ZeRO-3 gathers together at most: a decoder layer, the embedding, the LM head."""
    largest_parameter: int
    num_layers: int
    hidden: int
    intermediate: int
    """Width of the MLP for one token: that of all experts it visits."""
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocabulary: int
    norms_heads: bool
    """Whether queries and keys are normalised (Qwen3, OLMo)."""


def model_shape(config: Any) -> ModelShape:
    """Sizes of the model that a Hugging Face configuration describes; it is built without memory.

    Args:
        config: A `PretrainedConfig` of a causal LM.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    blocks = set(model._no_split_modules or ())
    groups = [
        sum(weight.numel() for weight in module.parameters())
        for module in model.modules()
        if type(module).__name__ in blocks or isinstance(module, torch.nn.Embedding)
    ]
    names = [name for name, _ in model.named_parameters()]
    experts = getattr(config, "num_experts_per_tok", None)
    width = config.intermediate_size
    if experts:
        width = experts * getattr(config, "moe_intermediate_size", width)
    heads = config.num_attention_heads
    return ModelShape(
        parameters=sum(weight.numel() for weight in model.parameters()),
        largest_group=max([*groups, model.get_output_embeddings().weight.numel()]),
        largest_parameter=max(weight.numel() for weight in model.parameters()),
        num_layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=width,
        num_heads=heads,
        num_kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocabulary=config.vocab_size,
        norms_heads=any(name.endswith("q_norm.weight") for name in names),
    )
