"""Which Hugging Face models can be trained: tried, refused by name with the reason, or untried.

The learner is exact for decoders whose log-probabilities are softmax(LM head(last hidden state)): it runs the decoder
itself, packs many rows into one sequence through an attention function of its own, and computes the LM head for the
answers only. What does not fit that is refused from `config.json`, before weights are read or processes started.
"""

from collections.abc import Mapping
from typing import Any

from delta.errors import ModelError

TRIED = {
    "qwen3": "Qwen3",
    "qwen2": "Qwen2, Qwen2.5",
    "llama": "Llama 2 to 3.3 and models of that architecture",
    "olmo3": "OLMo-3",
    "qwen3_moe": "Qwen3-MoE",
}
"""`model_type` -> what goes by it. Each trains for two steps in tests/integration/test_models.py, with engine and
learner compared after every sync; each passes what the learner's packed rows need down to its attention."""

_SCALED_LOGITS = ("final_logit_softcapping", "logits_soft_cap", "logit_scale", "logits_scaling", "lm_head_multiplier")
"""Settings of models that change the logits after the LM head, or its input before."""

_RECURRENT = {
    "bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "jamba", "kimi_linear", "lfm2", "lfm2_moe", "mamba",
    "mamba2", "minimax", "nemotron_h", "olmo_hybrid", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next", "qwen4_exp",
    "recurrent_gemma", "rwkv", "xlstm", "zamba", "zamba2",
}  # fmt: skip
_SINKS = {"deepseek_v4", "gpt_oss", "granite_swa", "granitemoe_swa", "hy_v4", "mimo_v2_flash"}
_SAMPLED_EXPERTS = {"phimoe"}
_SEEN_LAYERS = {"full_attention", "sliding_attention"}
_LENGTH_DEPENDENT_ROPE = {"dynamic", "longrope"}


def check_architecture(path: str, *, allow_untested: bool) -> None:
    """Refuse a model that the learner would train wrongly, and one that nobody has tried.

    Args:
        path: A folder in Hugging Face format, or a name on the hub.
        allow_untested: Go on with an architecture that was not tried. What is known to go wrong stays refused.

    Raises:
        ModelError: It cannot be trained, or was never tried; the message says why and what can be.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"model.path={path}: its config.json cannot be read ({str(error).splitlines()[0]}). Expected a causal "
            f"language model that this transformers knows; tried are {_tried()}."
        ) from error
    kind = config.model_type
    reason = refusal({**config.to_dict(), "model_type": kind}, composite=bool(config.sub_configs))
    reason = reason or _head_refusal(config)
    if reason is not None:
        raise ModelError(f"model.path={path} ({kind}) cannot be trained: {reason} Tried are {_tried()}.")
    if kind not in TRIED and not allow_untested:
        raise ModelError(
            f"model.path={path}: {kind} was never tried with this learner and engine; tried are {_tried()}. Set "
            "model.allow_untested=true to go on at your own risk: the run stops when engine and learner disagree, but "
            "nothing else is known of it."
        )
    if kind not in TRIED:
        _check_attention(config, path)


def refusal(settings: Mapping[str, Any], *, composite: bool) -> str | None:
    """Why a model cannot be trained whatever one risks; None where nothing is known against it.

    Args:
        settings: Its config.json.
        composite: Whether it has configurations of other models inside.
    """
    kind = settings["model_type"]
    if settings.get("quantization_config"):
        return "its weights are quantised, and gradients need them whole. Use the original in float32 or bfloat16."
    if settings.get("is_encoder_decoder"):
        return "it is an encoder-decoder, and the learner runs decoders only."
    if composite:
        return (
            "it wraps other models (images, sound), and prompts here are text. Use the text model alone, if it is "
            "published as a causal language model."
        )
    if kind in _RECURRENT:
        return "it has state-space, convolution or linear-attention layers, whose state would leak between packed rows."
    if kind in _SINKS:
        return "it has attention sinks, which the attention over packed rows does not compute."
    if kind in _SAMPLED_EXPERTS:
        return "its router samples experts in training, whatever its settings, and the engine takes the most probable."
    if others := set(settings.get("layer_types") or ()) - _SEEN_LAYERS:
        return f"its layers are of kinds {sorted(others)}; expected {sorted(_SEEN_LAYERS)}."
    for name in _SCALED_LOGITS:
        if settings.get(name) not in (None, 1, 1.0):
            return (
                f"it changes its logits outside the LM head ({name}={settings[name]}), and the learner computes "
                "logits from the LM head alone."
            )
    for name, value in settings.items():
        if _is_noise(name) and isinstance(value, int | float) and value > 0:
            return (
                f"{name}={value} would make the learner's log-probabilities random, while the engine's are not. Set it "
                "to 0 in config.json."
            )
    if found := _rope_types(settings.get("rope_parameters") or settings.get("rope_scaling")) & _LENGTH_DEPENDENT_ROPE:
        return (
            f"its rotary embedding ({found.pop()}) depends on the length of the whole batch, so a token's "
            "log-probability would depend on its neighbours. Expected default, linear, yarn or llama3."
        )
    return None


def _is_noise(name: str) -> bool:
    """Whether a setting makes the decoder random in training: dropped values or layers, shaken inputs of routers.

    Heads of classifiers have dropouts of their own, which a causal LM does not use.
    """
    noise = any(kind in name for kind in ("dropout", "layerdrop", "jitter")) or name.endswith("_pdrop")
    return noise and not name.startswith(("classifier", "summary"))


def _rope_types(parameters: Any) -> set[str]:
    """Of all layers: some models have one rotary embedding for each kind of layer."""
    if not isinstance(parameters, Mapping):
        return set()
    own = parameters.get("rope_type", parameters.get("type"))
    return {own} - {None} | {kind for value in parameters.values() for kind in _rope_types(value)}


def _head_refusal(config: Any) -> str | None:
    """The weights must be those of a causal language model: another head, or none, would be filled with noise."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    expected = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    if expected is None:
        return "transformers has no causal language model of this kind."
    saved = config.architectures or [expected]
    if expected in saved:
        return None
    return f"its weights are those of {', '.join(saved)}, without the LM head of {expected}."


def _check_attention(config: Any, path: str) -> None:
    """Packed rows reach the attention as a keyword of the decoder, which not every model passes on."""
    from transformers import AutoModelForCausalLM

    model_class = AutoModelForCausalLM._model_mapping[type(config)]
    if not model_class._supports_attention_backend:
        raise ModelError(
            f"model.path={path} ({config.model_type}) cannot be trained: it keeps keywords from its attention, "
            f"so rows packed into one sequence would see each other. Tried are {_tried()}."
        )


def _tried() -> str:
    return ", ".join(f"{kind} ({names})" for kind, names in TRIED.items())
