"""What can be trained is known from config.json, and what cannot is refused with a reason that fits."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AttentionInterface, AutoConfig, PreTrainedModel

from delta.errors import ModelError
from tests.tiny_models import FAMILIES, WINDOW, tiny_config, tiny_model
from workers.learner.models import TRIED, check_architecture


def write_config(folder: Path, **settings: object) -> str:
    """A model folder of which only the configuration exists: nothing else may be read."""
    (folder / "config.json").write_text(json.dumps(settings))
    return str(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_tried_architectures_pass(tmp_path, family):
    tiny_config(family, architectures=[type(tiny_model(family)).__name__]).save_pretrained(tmp_path)
    check_architecture(str(tmp_path), allow_untested=False)
    assert family in TRIED


@pytest.mark.parametrize(
    ("kind", "settings", "reason"),
    [
        ("gemma2", {}, r"gemma2.*changes its logits outside the LM head \(final_logit_softcapping=30"),
        ("vaultgemma", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ("cohere", {}, r"logit_scale=0\.0625"),
        ("cohere2", {}, r"logit_scale=0\.0625"),
        ("granite", {"logits_scaling": 8.0}, r"logits_scaling=8\.0"),
        ("t5", {}, "encoder-decoder"),
        ("bart", {}, "encoder-decoder"),
        ("qwen2_5_vl", {}, "wraps other models"),
        ("llava", {}, "wraps other models"),
        ("gemma3", {}, "wraps other models"),
        ("mamba2", {}, "state-space"),
        ("jamba", {}, "state-space"),
        ("falcon_h1", {}, "state-space"),
        ("qwen3_next", {}, "state-space"),
        ("kimi_linear", {}, "state-space"),
        ("lfm2", {}, "state-space"),
        ("gpt_oss", {}, "attention sinks"),
        ("llama4_text", {}, r"its layers are of kinds \['chunked_attention'\]"),
        ("qwen3", {"layer_types": ["chunked_attention"], "num_hidden_layers": 1}, "its layers are of kinds"),
        ("gpt2", {}, r"(attn|embd|resid)_pdrop=0\.1 would make"),
        ("llama", {"attention_dropout": 0.1}, r"attention_dropout=0\.1 would make.*Set it to 0"),
        ("opt", {"dropout": 0.0, "layerdrop": 0.1}, r"layerdrop=0\.1 would make.*Set it to 0"),
        ("mixtral", {"router_jitter_noise": 0.01}, r"router_jitter_noise=0\.01 would make.*Set it to 0"),
        ("mixtral", {"input_jitter_noise": 0.01}, r"input_jitter_noise=0\.01 would make"),
        ("phimoe", {"router_jitter_noise": 0.0}, "samples experts in training"),
        ("llama", {"quantization_config": {"quant_method": "fp8"}}, "quantised"),
        ("qwen3", {"architectures": ["Qwen3ForSequenceClassification"]}, "without the LM head of Qwen3ForCausalLM"),
        ("qwen3", {"architectures": ["Qwen3Model"]}, "weights are those of Qwen3Model"),
        ("qwen2", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, r"rotary embedding \(dynamic\)"),
    ],
)
@pytest.mark.parametrize("allow_untested", [False, True])
def test_what_would_go_wrong_is_refused_by_name_whatever_one_risks(tmp_path, kind, settings, reason, allow_untested):
    path = write_config(tmp_path, model_type=kind, **settings)
    with pytest.raises(ModelError, match=reason) as raised:
        check_architecture(path, allow_untested=allow_untested)
    assert f"({kind}) cannot be trained" in str(raised.value)
    assert "qwen3_moe (Qwen3-MoE)" in str(raised.value)  # what can be


def test_one_rotary_embedding_among_several_is_enough_to_refuse(tmp_path):
    config = tiny_config("olmo3")
    config.rope_parameters["full_attention"] = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="dynamic"):
        check_architecture(str(tmp_path), allow_untested=False)


@pytest.mark.parametrize("kind", ["mistral", "mixtral", "gemma", "phi3", "olmo2", "smollm3", "qwen2_moe", "gpt2"])
def test_untried_architectures_need_a_word(tmp_path, kind):
    off = dict.fromkeys(("attention_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
    path = write_config(tmp_path, model_type=kind, **off)  # gpt2 keeps a dropout for a classifier that is not there
    with pytest.raises(ModelError, match=rf"{kind} was never tried.*olmo3.*model\.allow_untested=true"):
        check_architecture(path, allow_untested=False)
    check_architecture(path, allow_untested=True)


def test_untried_architectures_that_keep_keywords_from_their_attention_stay_refused(tmp_path):
    path = write_config(
        tmp_path, model_type="gptj", attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, architectures=["GPTJForCausalLM"]
    )
    with pytest.raises(ModelError, match="keeps keywords from its attention"):
        check_architecture(path, allow_untested=True)


def test_unknown_kinds_are_refused(tmp_path):
    with pytest.raises(ModelError, match=r"config\.json cannot be read"):
        check_architecture(write_config(tmp_path, model_type="nothing_known"), allow_untested=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_keywords_of_the_decoder_reach_every_attention(family):
    """The way by which the boundaries of packed rows travel; a model that swallowed them would mix rows silently."""
    seen = []

    def attention(module, query, key, value, attention_mask, rows=None, sliding_window=None, **others):
        seen.append((rows, sliding_window))
        return query.transpose(1, 2).contiguous(), None

    AttentionInterface.register("seen_by_test", attention)
    model: PreTrainedModel = tiny_model(family)
    model.set_attn_implementation("seen_by_test")
    boundaries = object()
    with torch.no_grad():
        model.base_model(input_ids=torch.arange(6)[None], use_cache=False, rows=boundaries)
    windows = [WINDOW, None] if family == "olmo3" else [None, None]
    assert seen == [(boundaries, window) for window in windows]


def test_every_tried_kind_is_a_family_of_the_tests():
    assert set(TRIED) == set(FAMILIES)
    assert all(AutoConfig.for_model(kind).model_type == kind for kind in TRIED)
