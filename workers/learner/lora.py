"""LoRA through peft: low-rank adapters beside frozen weights.

    W' = W + alpha / r  B A      A (r, in) random, B (out, r) zero at first        arXiv:2106.09685

Only A and B are trained and have optimizer state. Engines know nothing of them: they are sent W', under the names that
the model has without adapters.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from delta.errors import ConfigError

ADAPTER = "default"
"""peft's own name for the only adapter of a model."""

ALL_LINEAR = "all-linear"


@dataclass(kw_only=True, slots=True)
class LoraConfig:
    """Low-rank adapters instead of all weights (`learner.lora.rank=16`)."""

    rank: int = 0
    """r, columns of B; 0 trains all weights, without adapters."""
    alpha: int = 32
    """B A is multiplied by alpha / rank."""
    dropout: float = 0.0
    """Only 0: dropout would make the learner another policy than the one that was sampled from."""
    target_modules: list[str] = field(default_factory=lambda: [ALL_LINEAR])
    """Linear layers with adapters, by the end of their names; `all-linear` is every one but the LM head. Experts, whose
    weights are stacked, and their routers can have none."""
    seed: int = 0
    """Of the initial A."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.rank < 0 or self.alpha <= 0:
            raise ValueError(
                f"learner.lora.rank={self.rank}, learner.lora.alpha={self.alpha}: expected 0 or more, and more than 0."
            )
        if self.dropout:
            raise ValueError(
                f"learner.lora.dropout={self.dropout}: expected 0. Dropout would give the sampled tokens other "
                "probabilities in the learner than in the engine; limit the rank instead."
            )
        if not self.target_modules:
            raise ValueError(f"learner.lora.target_modules is empty; expected names of layers, or [{ALL_LINEAR}].")


def add_adapters(causal_lm: Any, config: LoraConfig, *, model_path: str) -> None:
    """Freeze a causal LM of transformers and give it adapters, in place; it computes what it did before.

    Args:
        causal_lm: The model.
        config: Size and place of the adapters.
        model_path: What it was loaded from, for peft's own description of the adapter.

    Raises:
        ConfigError: `target_modules` names no layer, or one that can have no adapter here.
    """
    import peft

    names = config.target_modules
    possible = linear_layers(causal_lm)
    expected = f"Expected [{ALL_LINEAR}], or some of {', '.join(possible)}; the LM head and experts can have none."
    peft_config = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=0.0,
        target_modules=possible if names == [ALL_LINEAR] else names,
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=model_path,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        try:
            peft.inject_adapter_in_model(peft_config, causal_lm, adapter_name=ADAPTER)
        except ValueError as error:  # no such layer, or one of a kind that peft cannot adapt
            raise ConfigError(f"learner.lora.target_modules={names}: {error} {expected}") from error
    wrong = [name for name, layer in _adapted_layers(causal_lm) if not _can_be_merged(layer, causal_lm)]
    if wrong:
        raise ConfigError(f"learner.lora.target_modules={names} reaches {', '.join(wrong)}. {expected}")
    # Nothing before the first adapter is trained. Where a layer's input asks for no gradient, torch's backward hooks
    # run before its own backward pass, and ZeRO-3's would take the first decoder layer's weights away too early.
    causal_lm.enable_input_require_grads()


def linear_layers(causal_lm: Any) -> list[str]:
    """Ends of the names of all linear layers but the LM head.

    peft's own `all-linear` adds stacked experts and routers, whose weights it replaces during the forward pass: nothing
    that ZeRO-3 could follow.
    """
    head = causal_lm.get_output_embeddings()
    modules = causal_lm.named_modules()
    return sorted(
        {name.rsplit(".", 1)[-1] for name, layer in modules if isinstance(layer, nn.Linear) and layer is not head}
    )


def adapter_parameters(architecture: Any, config: LoraConfig) -> int:
    """How many parameters the adapters have; tried on a model without weights, before anything is started.

    Args:
        architecture: Configuration of a causal LM of transformers.
        config: The adapters.

    Raises:
        ConfigError: As `add_adapters`.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        causal_lm = AutoModelForCausalLM.from_config(architecture)
        add_adapters(causal_lm, config, model_path="")
    return sum(parameter.numel() for name, parameter in causal_lm.named_parameters() if _is_adapter(name))


@dataclass(frozen=True, slots=True, eq=False)
class PolicyWeight:
    """A weight as the engine knows it: a parameter of the model, and what its adapter adds."""

    parameter: Any
    """DeepSpeed adds to its parameters, among other things, the whole shape."""
    adapter: tuple[Any, Any, float] | None = None
    """A, B and alpha / r."""

    @property
    def parameters(self) -> list[Any]:
        """What must be whole for `value`."""
        return [self.parameter, *(self.adapter[:2] if self.adapter else ())]

    def value(self) -> Tensor:
        """The whole weight; the sum is taken in float32 and rounded once."""
        base: Tensor = self.parameter.data
        if self.adapter is None:
            return base
        a, b, scale = self.adapter
        # The small factor is scaled, and the weight added in place: one more tensor of its size, in float32.
        whole = (b.data.float() * scale) @ a.data.float()
        return whole.add_(base).to(base.dtype)


def policy_weights(module: nn.Module) -> dict[str, PolicyWeight]:
    """The weights of a model with or without adapters, by the names they have without, in order; tied ones once."""
    adapters = {
        f"{name}.base_layer.weight": (
            layer.lora_A[ADAPTER].weight,
            layer.lora_B[ADAPTER].weight,
            layer.scaling[ADAPTER],
        )
        for name, layer in _adapted_layers(module)
    }
    return {
        name.replace(".base_layer.", "."): PolicyWeight(parameter, adapters.get(name))
        for name, parameter in module.named_parameters()
        if not _is_adapter(name)
    }


def whole_adapter(module: nn.Module) -> dict[str, Tensor]:
    """Copies of the adapters' parameters in host memory, gathered from ZeRO-3's shards, by their names; collective."""
    import deepspeed

    adapter = {name: parameter for name, parameter in module.named_parameters() if _is_adapter(name)}
    with deepspeed.zero.GatheredParameters(list(adapter.values())):
        return {name: parameter.detach().to("cpu", copy=True) for name, parameter in adapter.items()}


def save_adapter(causal_lm: Any, weights: dict[str, Tensor], folder: Path) -> None:
    """Write the adapter in peft's own format.

    Args:
        causal_lm: From `add_adapters`.
        weights: From `whole_adapter`.
        folder: Is made.
    """
    from peft import get_peft_model_state_dict
    from peft.utils import SAFETENSORS_WEIGHTS_NAME
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = get_peft_model_state_dict(causal_lm, state_dict=weights, adapter_name=ADAPTER)
    # The names that a PeftModel around the base model uses.
    state = {f"base_model.model.{name}": weight.contiguous() for name, weight in state.items()}
    save_file(state, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
    causal_lm.peft_config[ADAPTER].save_pretrained(str(folder))


class FirstPolicy:
    """The policy before training, for the KL term: the same engine with its adapters switched off, no second copy."""

    def __init__(self, engine: Any) -> None:
        """Ask `engine`, from `create_engine`."""
        self._engine = engine
        self._layers = [layer for _, layer in _adapted_layers(engine.module)]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the engine says without adapters; collective, and without gradient."""
        self._switch(False)
        try:
            with torch.no_grad():
                return self._engine(*args, **kwargs)
        finally:
            self._switch(True)

    def _switch(self, enabled: bool) -> None:
        for layer in self._layers:
            layer.enable_adapters(enabled)


def _is_adapter(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name


def _adapted_layers(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, layer in module.named_modules():
        if isinstance(getattr(layer, "lora_A", None), nn.ModuleDict):
            yield name, layer


def _can_be_merged(layer: Any, causal_lm: Any) -> bool:
    return isinstance(layer.base_layer, nn.Linear) and layer is not causal_lm.get_output_embeddings()
