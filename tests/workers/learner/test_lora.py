"""LoRA on real ZeRO-3 ranks and a real engine: adapters alone are trained, and everybody else sees whole weights."""

import asyncio
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from delta.credit import UniformConfig
from delta.data.micro_batch import MicroBatch
from delta.errors import ConfigError
from delta.losses import RegularizationConfig
from delta.types import RolloutGroup
from tests.integration.test_models import (
    ALGORITHM,
    LIMIT,
    PROBE,
    TRAINING,
    disagreement,
    made_up_groups,
    sample_groups,
    stop,
)
from tests.tiny_models import save_tiny, tiny_config, tiny_model
from workers.deadlines import DeadlinesConfig
from workers.learner.config import LearnerConfig
from workers.learner.group import LearnerGroup
from workers.learner.learner import AlgorithmConfig
from workers.learner.lora import FirstPolicy, LoraConfig, adapter_parameters, add_adapters, policy_weights
from workers.learner.policy import Policy
from workers.rollout.config import RolloutConfig
from workers.rollout.pool import RolloutPool

LORA = replace(TRAINING, lora=LoraConfig(rank=4, alpha=8))
WITH_KL = replace(ALGORITHM, regularization=RegularizationConfig(kl=0.1))


def probe_log_probs(model: torch.nn.Module) -> np.ndarray:
    """What plain transformers says of the probe."""
    with torch.no_grad():
        table = torch.log_softmax(model(torch.tensor([PROBE[:-1]])).logits[0], dim=-1)
    return table.gather(1, torch.tensor(PROBE[1:])[:, None]).squeeze(1).numpy()


def test_a_new_adapter_changes_nothing_and_is_all_there_is_to_train():
    model = tiny_model("qwen2", tied=True)
    before = probe_log_probs(model)
    names = list(dict(model.named_parameters()))
    add_adapters(model, LoraConfig(rank=4), model_path="here")
    np.testing.assert_array_equal(probe_log_probs(model), before)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 7 * 2  # A and B of seven linear layers in each of two decoder layers
    assert all(".lora_A." in name or ".lora_B." in name for name in trained)
    assert list(policy_weights(model)) == names


def test_the_first_adapter_is_a_function_of_its_seed_alone():
    def first(seed: int) -> torch.Tensor:
        model = tiny_model("llama")
        torch.rand(3)
        add_adapters(model, LoraConfig(rank=4, seed=seed), model_path="here")
        return model.model.layers[1].mlp.up_proj.lora_A["default"].weight

    drawn = torch.get_rng_state()
    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))
    torch.set_rng_state(drawn)


@pytest.mark.parametrize("rank_and_alpha", [(4, 8), (8, 4)])
def test_whole_weights_are_what_the_adapted_model_computes(rank_and_alpha):
    rank, alpha = rank_and_alpha
    model = tiny_model("qwen2", tied=True)
    add_adapters(model, LoraConfig(rank=rank, alpha=alpha), model_path="here")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1)
    merged = tiny_model("qwen2", tied=True, seed=1)
    before = probe_log_probs(merged)
    merged.load_state_dict({name: weight.value() for name, weight in policy_weights(model).items()}, strict=False)
    assert np.abs(probe_log_probs(merged) - before).max() > 0.1
    np.testing.assert_allclose(probe_log_probs(merged), probe_log_probs(model), atol=1e-5)


def test_the_reference_is_the_policy_without_its_adapters_which_come_back():
    policy = Policy(tiny_model("qwen2", tied=True), temperature=1.0)
    row = MicroBatch(
        token_ids=torch.tensor([PROBE[:-1]]),
        predictors=torch.arange(len(PROBE) - 1),
        targets=torch.tensor(PROBE[1:]),
        row_lengths=(len(PROBE) - 1,),
    )
    first = policy(row).log_probs.detach()
    add_adapters(policy.causal_lm, LoraConfig(rank=4), model_path="here")
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1)
    adapted = policy(row).log_probs.detach()
    assert (adapted - first).abs().max() > 0.1
    reference = FirstPolicy(torch.nn.Sequential(OrderedDict(module=policy)))  # as much of an engine as it asks for
    assert torch.equal(reference(row).log_probs, first)
    assert torch.equal(policy(row).log_probs, adapted)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (["q_porj"], r"\['q_porj'\].*Expected \[all-linear\], or some of down_proj, gate_proj, k_proj"),
        (["lm_head"], "reaches lm_head.*the LM head and experts can have none"),
        (["embed_tokens"], r"reaches model\.embed_tokens"),
    ],
)
def test_layers_that_cannot_have_adapters_are_named_before_weights_are_read(targets, said):
    with pytest.raises(ConfigError, match=said):
        adapter_parameters(tiny_config("qwen3"), LoraConfig(rank=2, target_modules=targets))


def test_adapters_are_counted_without_weights():
    config = tiny_config("qwen2")  # hidden 128, four heads of 32, two for keys and values
    assert adapter_parameters(config, LoraConfig(rank=3, target_modules=["q_proj"])) == 2 * 3 * (128 + 128)
    assert adapter_parameters(config, LoraConfig(rank=3, target_modules=["v_proj"])) == 2 * 3 * (128 + 64)
    model = tiny_model("qwen2")
    add_adapters(model, LoraConfig(rank=3), model_path="here")
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert adapter_parameters(config, LoraConfig(rank=3)) == trained


def test_experts_have_no_adapters():
    model = tiny_model("qwen3_moe")
    add_adapters(model, LoraConfig(rank=2), model_path="here")
    adapted = {name.split(".lora_A.")[0] for name, _ in model.named_parameters() if ".lora_A." in name}
    assert adapted == {f"model.layers.{layer}.self_attn.{part}_proj" for layer in range(2) for part in "qkvo"}
    with pytest.raises(ConfigError, match=r"\['gate_proj'\].*Expected \[all-linear\], or some of k_proj, o_proj"):
        add_adapters(tiny_model("qwen3_moe"), LoraConfig(rank=2, target_modules=["gate_proj"]), model_path="here")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rank": -1}, r"learner\.lora\.rank=-1"),
        ({"alpha": 0}, r"learner\.lora\.alpha=0"),
        ({"dropout": 0.1}, r"learner\.lora\.dropout=0\.1: expected 0"),
        ({"target_modules": []}, r"target_modules is empty"),
    ],
)
def test_settings_out_of_range_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        LoraConfig(**settings)


async def start(model: Path, config: LearnerConfig, algorithm: AlgorithmConfig = WITH_KL) -> LearnerGroup:
    learners = LearnerGroup(config, deadlines=DeadlinesConfig())
    await learners.set_up(str(model), algorithm, dtype="float32", temperature=1.0, mismatch_limit=LIMIT)
    return learners


async def train_and_resume(model: Path, folder: Path) -> None:
    """Two steps with engine, a checkpoint between them, and the second step once more from it."""
    rollouts = RolloutPool(
        str(model), RolloutConfig(max_model_len=256), dtype="float32", seed=0, deadlines=DeadlinesConfig()
    )
    learners, _ = await asyncio.gather(start(model, LORA), rollouts.ready())
    try:
        await learners.connect(rollouts.actors)
        await learners.publish(0)
        assert await disagreement(rollouts, learners) < LIMIT

        first = await learners.update(await sample_groups(rollouts, 0), policy_version=0)
        assert first.metrics["learner/grad_norm"] > 1e-3
        assert await disagreement(rollouts, learners) > 100 * LIMIT
        await learners.publish(1)
        assert await disagreement(rollouts, learners) < LIMIT

        await learners.stage()
        (folder / "checkpoint").mkdir()
        written = await learners.write(folder / "checkpoint")
        weights = sum(file.size for name, file in written.items() if "safetensors" in name)
        assert weights < 0.6 * (model / "model.safetensors").stat().st_size  # thrice the adapters' own size

        groups = await sample_groups(rollouts, 1)
        second = await learners.update(groups, policy_version=1)
        # The reference is the policy before training, not the one of the last step.
        base = AutoModelForCausalLM.from_pretrained(model).eval()
        assert second.metrics["policy/ref_kl"] > 1e-3
        await learners.publish(2)
        assert await disagreement(rollouts, learners) < LIMIT
        await learners.export(folder / "export")
        found = await learners.log_probs(PROBE)
    finally:
        for actor in rollouts.actors:
            ray.kill(actor)
        stop(learners)

    merged = AutoModelForCausalLM.from_pretrained(folder / "export").eval()
    np.testing.assert_allclose(probe_log_probs(merged), found, atol=LIMIT)
    assert np.abs(probe_log_probs(base) - found).max() > 100 * LIMIT
    adapted = [".self_attn.q_proj.", ".k_proj.", ".v_proj.", ".o_proj.", ".gate_proj.", ".up_proj.", ".down_proj."]
    after = merged.state_dict()
    for name, weight in base.state_dict().items():
        changes = any(part in name for part in adapted) and name.endswith("weight")
        assert torch.equal(after[name], weight) != changes, name
    by_peft = PeftModel.from_pretrained(base, folder / "export" / "adapter").eval()
    np.testing.assert_allclose(probe_log_probs(by_peft), found, atol=LIMIT)

    again = await start(model, LORA)
    try:
        await again.load(folder / "checkpoint")
        repeated = await again.update(groups, policy_version=1)
        for name, value in second.metrics.items():
            assert name.startswith("time/") or repeated.metrics[name] == value, name
        np.testing.assert_array_equal(await again.log_probs(PROBE), found)
    finally:
        stop(again)


@pytest.mark.ray
@pytest.mark.slow
def test_adapters_train_reach_the_engine_resume_and_export(ray_cluster, tmp_path):
    asyncio.run(train_and_resume(save_tiny(tmp_path / "model", "qwen2", tied=True), tmp_path))


async def one_update(model: Path, groups: list[RolloutGroup], folder: Path) -> tuple[float, dict[str, torch.Tensor]]:
    """Gradient norm of an update with uniform credit, and the weights after it."""
    learners = await start(model, replace(LORA, updates_per_step=1), replace(ALGORITHM, credit=UniformConfig()))
    try:
        report = await learners.update(groups, policy_version=0)
        await learners.export(folder)
        return report.metrics["learner/grad_norm"], AutoModelForCausalLM.from_pretrained(folder).state_dict()
    finally:
        stop(learners)


def policy_gradient_norm(model: torch.nn.Module, groups: list[RolloutGroup]) -> float:
    """Of L = - 1 / tokens  sum A log p, by plain autograd: the surrogate at ratio 1 under uniform credit."""
    total, tokens = torch.zeros(()), 0
    for group in groups:
        rewards = np.array([verdict.reward for verdict in group.verdicts])
        advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
        for rollout, advantage in zip(group.rollouts, advantages, strict=True):
            row = torch.tensor([[*group.prompt.token_ids, *rollout.token_ids.tolist()]])
            table = torch.log_softmax(model(row[:, :-1]).logits[0, len(group.prompt.token_ids) - 1 :], dim=-1)
            response = row[0, len(group.prompt.token_ids) :, None]
            total = total - float(advantage) * table.gather(1, response).sum()
            tokens += len(response)
    (total / tokens).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    return float(torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt())


@pytest.mark.ray
@pytest.mark.slow
def test_zero3_gives_adapters_the_gradients_of_plain_autograd(ray_cluster, tmp_path):
    """Those of the first layer too, to whose input no gradient would flow."""
    model = save_tiny(tmp_path / "model", "qwen3_moe")
    groups = made_up_groups(model)
    norm, weights = asyncio.run(one_update(model, groups, tmp_path / "export"))
    base = AutoModelForCausalLM.from_pretrained(model)
    by_peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), tmp_path / "export" / "adapter")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    np.testing.assert_allclose(probe_log_probs(by_peft.eval()), probe_log_probs(merged.eval()), atol=1e-5)
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    add_adapters(base, LORA.lora, model_path="here")
    assert norm == pytest.approx(policy_gradient_norm(base, groups), rel=1e-4)
    for name, weight in before.items():
        assert torch.equal(weights[name], weight) != (".self_attn." in name and "_proj" in name), name
