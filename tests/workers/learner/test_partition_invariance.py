"""Promise 1: the same batch gives the same credit, loss, gradient and weights, whoever computes what."""

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from transformers import AutoModelForCausalLM

from delta.advantages import GroupAdvantageConfig, ReinforcePlusPlusConfig, RlooConfig
from delta.aggregations import ConstantLengthConfig, SequenceMeanConfig, SequenceSumConfig, TokenMeanConfig
from delta.credit import (
    DiscriminativeConfig,
    FipoConfig,
    ForkingConfig,
    Proxy,
    ShareConfig,
    UniformConfig,
    WithinSideConfig,
    discriminative_coefficients,
    token_vectors,
)
from delta.credit.share import Keep
from delta.errors import MismatchError
from delta.importance import Level, MaskedConfig, TruncatedConfig
from delta.losses import KlEstimator, RegularizationConfig
from delta.surrogates import CispoConfig, ClippedConfig, GspoConfig, SapoConfig
from delta.types import FinishReason, Outcome, Prompt, Rollout, RolloutGroup, Verdict
from workers.deadlines import DeadlinesConfig
from workers.files import digest
from workers.learner.config import LearnerConfig
from workers.learner.group import LearnerGroup
from workers.learner.learner import AlgorithmConfig

pytestmark = pytest.mark.ray

GROUPS, GROUP_SIZE, UPDATES = 4, 4, 2


def log_probs_of(model, prompt: list[int], response: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Plain transformers, one row, no padding: log-probabilities and hidden states of the response."""
    with torch.no_grad():
        output = model(torch.tensor([[*prompt, *response]]), output_hidden_states=True)
    hidden = output.hidden_states[-1][0, len(prompt) - 1 : -1]
    table = torch.log_softmax(output.logits[0, len(prompt) - 1 : -1], dim=-1)
    return table.gather(1, torch.tensor(response)[:, None]).squeeze(1), hidden


def random_groups(model) -> list[RolloutGroup]:
    """Groups of very uneven lengths; one without signal, one with a verdict that failed."""
    generator = np.random.default_rng(5)
    groups = []
    for n in range(GROUPS):
        prompt = generator.integers(0, 256, size=int(generator.integers(3, 9))).tolist()
        rollouts, verdicts = [], []
        for g in range(GROUP_SIZE):
            response = generator.integers(0, 256, size=int(generator.integers(1, 60))).tolist()
            rollouts.append(
                Rollout(
                    group=n,
                    index=g,
                    token_ids=np.array(response, dtype=np.int32),
                    rollout_log_probs=log_probs_of(model, prompt, response)[0].numpy(),
                    text="",
                    finish_reason=FinishReason.stop,
                    policy_version=0,
                    seed=0,
                )
            )
            if n == 1 and g == 2:
                verdicts.append(Verdict(Outcome.timeout, 0.0))
            else:
                right = n != 3 and generator.random() < 0.5
                verdicts.append(Verdict(Outcome.correct if right else Outcome.wrong, float(right)))
        groups.append(RolloutGroup(Prompt(str(n), "", "", tuple(prompt)), tuple(rollouts), tuple(verdicts)))
    return groups


DELTA = AlgorithmConfig(
    advantage=GroupAdvantageConfig(),
    credit=DiscriminativeConfig(),
    surrogate=ClippedConfig(),
    aggregation=TokenMeanConfig(),
)

ALGORITHMS = {
    "last layer": replace(DELTA, credit=DiscriminativeConfig(proxy=Proxy.last_layer)),
    "within side": replace(DELTA, credit=WithinSideConfig(), advantage=RlooConfig()),
    "GRPO with KL and entropy": replace(
        DELTA,
        credit=UniformConfig(),
        aggregation=SequenceMeanConfig(),
        regularization=RegularizationConfig(kl=0.1, kl_estimator=KlEstimator.k3, entropy=0.01),
    ),
    "Dr. GRPO": replace(
        DELTA,
        advantage=GroupAdvantageConfig(normalize_std=False),
        credit=UniformConfig(),
        aggregation=ConstantLengthConfig(length=60),
    ),
    "REINFORCE++ with token TIS": replace(
        DELTA,
        advantage=ReinforcePlusPlusConfig(),
        credit=UniformConfig(),
        aggregation=SequenceSumConfig(),
        importance=TruncatedConfig(),
    ),
    "GSPO with sequence IcePop": replace(
        DELTA,
        credit=UniformConfig(),
        surrogate=GspoConfig(),
        aggregation=SequenceMeanConfig(),
        importance=MaskedConfig(level=Level.sequence, low=1e-9, high=1e9),  # the policy has moved far by then
    ),
    "SAPO": replace(DELTA, credit=UniformConfig(), surrogate=SapoConfig()),
    "CISPO on a random half": replace(DELTA, credit=ShareConfig(keep=Keep.random), surrogate=CispoConfig()),
    "FIPO": replace(DELTA, credit=FipoConfig()),
    "forking": replace(DELTA, credit=ForkingConfig()),
}
"""Every choice of every group, in as few combinations as there are credits."""


async def start(
    model_path: Path, config: LearnerConfig, algorithm: AlgorithmConfig = DELTA, *, mismatch_limit: float = 1e-3
) -> LearnerGroup:
    learners = LearnerGroup(config, deadlines=DeadlinesConfig())
    await learners.set_up(str(model_path), algorithm, dtype="float32", temperature=1.0, mismatch_limit=mismatch_limit)
    return learners


def stop(learners: LearnerGroup) -> None:
    for actor in learners.actors:
        ray.kill(actor)


async def weights_hash(learners: LearnerGroup) -> str:
    """Of the whole weights, as an export has them: equal hashes are equal policies."""
    with tempfile.TemporaryDirectory() as folder:
        await learners.export(Path(folder))
        return digest(Path(folder) / "model.safetensors").sha256


async def learn(model_path: Path, groups: list[RolloutGroup], folder: Path, config: LearnerConfig):
    """Credit, metrics and next weights of one update."""
    learners = await start(model_path, config)
    try:
        coefficients = await learners.coefficients(groups)
        report = await learners.update(groups, policy_version=0)
        await learners.export(folder)
        weights = AutoModelForCausalLM.from_pretrained(folder).state_dict()
        return coefficients, report.metrics, weights
    finally:
        stop(learners)


LAYOUTS = {
    "one rank": {"num_ranks": 1},
    "small pieces": {"num_ranks": 1, "tokens_per_micro_batch": 64, "lm_head_chunk_tokens": 7},
    "two ranks": {"num_ranks": 2, "tokens_per_micro_batch": 100, "gradient_checkpointing": True},
    "two ranks padded": {"num_ranks": 2, "packing": False, "gradient_checkpointing": True, "lm_head_chunk_tokens": 3},
    "four ranks": {"num_ranks": 4, "lm_head_chunk_tokens": 16},
    "two by two": {"num_ranks": 4, "sequence_parallel": 2, "gradient_checkpointing": True},
}
"""Ways to compute the same update: ranks, packed or padded, micro-batches, chunks, checkpointing, shared sequences."""

LAYOUTS_OF_BOTH = ("one rank", "two by two")
"""Those that are tried without tied embeddings as well."""


def learner_config(**settings) -> LearnerConfig:
    # Comparisons of weights need the raw gradient: Adam's first step is the sign of it, which rounding can flip.
    return LearnerConfig(updates_per_step=UPDATES, learning_rate=1e-4, adam_eps=1e-2, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_the_layout_of_an_update_changes_nothing(ray_cluster, make_model, tmp_path, tied):
    model_path = make_model(tie_embeddings=tied)
    model = AutoModelForCausalLM.from_pretrained(model_path).eval()
    groups = random_groups(model)

    results = {
        name: asyncio.run(learn(model_path, groups, tmp_path / name, learner_config(**settings)))
        for name, settings in LAYOUTS.items()
        if tied or name in LAYOUTS_OF_BOTH
    }
    expected_coefficients, expected_metrics, expected_weights = results["one rank"]
    for coefficients, metrics, weights in results.values():
        np.testing.assert_allclose(coefficients, expected_coefficients, atol=1e-5)
        for name in ("loss/surrogate", "learner/grad_norm", "policy/entropy", "policy/kl", "learner/tokens"):
            assert metrics[name] == pytest.approx(expected_metrics[name], rel=1e-4, abs=1e-7), name
        for name, weight in weights.items():
            torch.testing.assert_close(weight, expected_weights[name], atol=1e-6, rtol=1e-4)
    before = model.state_dict()
    assert any(not torch.equal(before[name], weight) for name, weight in expected_weights.items())

    # The reference reading of the algorithm on unpadded rows of plain transformers gives the same credit.
    vectors, advantages = [], []
    for group in groups:
        judged = [v.reward for v in group.verdicts if v.outcome.is_judgement]
        for rollout, verdict in zip(group.rollouts, group.verdicts, strict=True):
            spread = float(np.std(judged))
            advantage = 0.0
            if verdict.outcome.is_judgement and spread > 0:
                advantage = (verdict.reward - float(np.mean(judged))) / (spread + 1e-6)
            log_probs, hidden = log_probs_of(model, list(group.prompt.token_ids), rollout.token_ids.tolist())
            vectors.append(token_vectors(hidden, log_probs))
            advantages += [advantage] * len(log_probs)
    reference = discriminative_coefficients(torch.cat(vectors), torch.tensor(advantages))
    np.testing.assert_allclose(expected_coefficients, reference.numpy(), atol=2e-5)
    assert reference.std() > 1e-3


@pytest.mark.slow
def test_a_giant_row_a_tiny_one_and_ranks_without_any_come_to_the_same_end(ray_cluster, make_model):
    model_path = make_model()
    model = AutoModelForCausalLM.from_pretrained(model_path).eval()
    (group, *_) = random_groups(model)
    generator = np.random.default_rng(6)
    rollouts = []
    for rollout, length in zip(group.rollouts[:2], (400, 1), strict=True):
        tokens = generator.integers(0, 256, size=length).astype(np.int32)
        log_probs = log_probs_of(model, list(group.prompt.token_ids), tokens.tolist())[0].numpy()
        rollouts.append(replace(rollout, token_ids=tokens, rollout_log_probs=log_probs))
    verdicts = (Verdict(Outcome.correct, 1.0), Verdict(Outcome.wrong, 0.0))
    groups = [replace(group, rollouts=tuple(rollouts), verdicts=verdicts)]

    async def update(**settings):
        learners = await start(model_path, learner_config(tokens_per_micro_batch=64, **settings))
        try:
            return (await learners.update(groups, policy_version=0)).metrics
        finally:
            stop(learners)

    expected = asyncio.run(update(num_ranks=1))
    # Four ranks share two rows; two pairs of ranks do; and one pair has a dummy token beside the tiny row.
    for settings in ({"num_ranks": 4}, {"num_ranks": 4, "sequence_parallel": 2}, {"num_ranks": 3, "packing": False}):
        metrics = asyncio.run(update(**settings))
        assert metrics["learner/tokens"] == expected["learner/tokens"] == 401
        for name in ("loss/surrogate", "learner/grad_norm", "policy/entropy", "credit/lambda_std"):
            assert metrics[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6), (settings, name)


async def learn_with_each(model_path: Path, groups: list[RolloutGroup], config: LearnerConfig):
    """Credit and metrics of an update with each algorithm; each starts from the policy that the last one left."""
    # The policy moves on while the rollouts stay: engine and learner are meant to differ here.
    learners = await start(model_path, config, ALGORITHMS["GRPO with KL and entropy"], mismatch_limit=1e6)
    try:
        results = {}
        for name, algorithm in ALGORITHMS.items():
            await learners.set_algorithm(algorithm)
            coefficients = await learners.coefficients(groups)
            results[name] = coefficients, (await learners.update(groups, policy_version=7)).metrics
        return results
    finally:
        stop(learners)


@pytest.mark.slow
def test_ranks_and_micro_batches_change_no_algorithm(ray_cluster, make_model):
    model_path = make_model()
    groups = random_groups(AutoModelForCausalLM.from_pretrained(model_path).eval())
    results = {}
    for ranks, settings in ((1, {"packing": False}), (4, {"sequence_parallel": 2, "tokens_per_micro_batch": 100})):
        config = learner_config(num_ranks=ranks, **settings)
        results[ranks] = asyncio.run(learn_with_each(model_path, groups, config))
    for name, (coefficients, metrics) in results[1].items():
        others_coefficients, others_metrics = results[4][name]
        np.testing.assert_allclose(others_coefficients, coefficients, atol=2e-5, err_msg=name)
        assert metrics.keys() == others_metrics.keys()
        for metric, value in metrics.items():
            if not metric.startswith("time/"):
                # The mismatch is nothing but rounding here.
                allowed = 1e-5 if "mismatch" in metric else 1e-6
                assert others_metrics[metric] == pytest.approx(value, rel=2e-4, abs=allowed), f"{name}: {metric}"
        assert metrics["learner/grad_norm"] > 0, name
    assert results[1]["GRPO with KL and entropy"][1]["policy/ref_kl"] > 0
    assert results[1]["REINFORCE++ with token TIS"][1]["importance/mean"] != 1
    assert 0.2 <= results[1]["forking"][1]["credit/selected_share"] < 0.21


class AfterAll(UniformConfig):
    """Uniform credit that asks for the pass it does not need."""

    def needs_old_pass(self) -> bool:
        return True


@pytest.mark.slow
def test_the_old_pass_is_skipped_where_nothing_needs_it_and_changes_nothing(ray_cluster, make_model):
    model_path = make_model()
    groups = random_groups(AutoModelForCausalLM.from_pretrained(model_path).eval())
    algorithm = replace(
        ALGORITHMS["GRPO with KL and entropy"], importance=TruncatedConfig(), advantage=RlooConfig(), credit=AfterAll()
    )
    config = replace(learner_config(num_ranks=2), updates_per_step=1, gradient_checkpointing=True)

    async def learn_both():
        results = []
        for credit in (AfterAll(), UniformConfig()):
            learners = await start(model_path, config, replace(algorithm, credit=credit))
            try:
                metrics = (await learners.update(groups, policy_version=0)).metrics
                results.append((metrics, await weights_hash(learners)))
            finally:
                stop(learners)
        return results

    (metrics, weights), (skipped_metrics, skipped_weights) = asyncio.run(learn_both())
    assert skipped_weights == weights
    assert metrics["time/old_pass_s"] > 0 == skipped_metrics["time/old_pass_s"]
    assert metrics.keys() == skipped_metrics.keys()
    for name, value in metrics.items():
        assert name.startswith("time/") or skipped_metrics[name] == value, name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "updates"), [(DELTA, 2), (replace(DELTA, credit=UniformConfig()), 1)], ids=["old pass", "no old pass"]
)
def test_rollouts_of_another_policy_are_refused_and_nothing_is_trained(ray_cluster, make_model, algorithm, updates):
    model_path = make_model()
    groups = random_groups(AutoModelForCausalLM.from_pretrained(model_path).eval())
    (first, *others) = groups[0].rollouts
    stale = replace(first, rollout_log_probs=first.rollout_log_probs - 0.5)
    groups[0] = replace(groups[0], rollouts=(stale, *others))

    async def attempt():
        learners = await start(model_path, LearnerConfig(num_ranks=2, updates_per_step=updates), algorithm)
        try:
            before = await weights_hash(learners)
            with pytest.raises(MismatchError, match=r"differ by up to 0\.5 nats.*rollout\.mismatch_limit=0\.001"):
                await learners.update(groups, policy_version=3)
            return before, await weights_hash(learners)
        finally:
            stop(learners)

    before, after = asyncio.run(attempt())
    assert before == after
