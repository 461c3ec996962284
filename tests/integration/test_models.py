"""Every architecture that is tried, on the real stack: two steps of training, engine and learner agree throughout."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from transformers import AutoModelForCausalLM

from delta.advantages import GroupAdvantageConfig
from delta.aggregations import TokenMeanConfig
from delta.credit import DiscriminativeConfig
from delta.surrogates import ClippedConfig
from delta.types import FinishReason, Outcome, Prompt, Rollout, RolloutGroup, UpdateReport, Verdict
from tests.tiny_models import FAMILIES, WINDOW, save_tiny
from workers.deadlines import DeadlinesConfig
from workers.learner.config import LearnerConfig
from workers.learner.group import LearnerGroup
from workers.learner.learner import AlgorithmConfig
from workers.rollout.config import RolloutConfig
from workers.rollout.engine import SamplingRequest
from workers.rollout.pool import RolloutPool
from workers.rollout.worker import RolloutTask

pytestmark = [pytest.mark.ray, pytest.mark.slow]

LIMIT = 3e-5
"""Nats; several times what was measured, and a fraction of a hundredth of what an update changes."""

PROBE = [1 + 7 * i % 250 for i in range(64)]
LENGTHS = (3, 60, 9, 2 * WINDOW)
"""Tokens of the rollouts of a group: uneven, so that learner ranks have unequal work, and longer than a window."""

ALGORITHM = AlgorithmConfig(
    advantage=GroupAdvantageConfig(),
    credit=DiscriminativeConfig(),
    surrogate=ClippedConfig(),
    aggregation=TokenMeanConfig(),
)
TRAINING = LearnerConfig(updates_per_step=2, tokens_per_micro_batch=100, learning_rate=1e-2)
"""A rate at which two steps change every probability."""


async def sample_groups(rollouts: RolloutPool, step: int) -> list[RolloutGroup]:
    """Three groups of sampled rollouts; every second one is called right."""
    prompts = [Prompt(str(n), "", "", tuple(range(10 + n, 20 + 2 * n))) for n in range(3)]
    tasks = [
        RolloutTask(n, g, SamplingRequest(prompt.token_ids, 1.0, tokens, 1000 * step + 10 * n + g, stop_at_end=False))
        for n, prompt in enumerate(prompts)
        for g, tokens in enumerate(LENGTHS)
    ]
    found: dict[tuple[int, int], Rollout] = {}
    async for lot in rollouts.generate(tasks):
        found.update({(rollout.group, rollout.index): rollout for rollout in lot})
    verdicts = tuple(Verdict(Outcome.correct if g % 2 else Outcome.wrong, float(g % 2)) for g in range(len(LENGTHS)))
    return [
        RolloutGroup(prompt, tuple(found[n, g] for g in range(len(LENGTHS))), verdicts)
        for n, prompt in enumerate(prompts)
    ]


async def differences(rollouts: RolloutPool, learners: LearnerGroup) -> np.ndarray:
    """Of engine and learner for each token of the probe, in nats."""
    expected = await learners.log_probs(PROBE)
    ((_, found),) = await rollouts.log_probs(PROBE)
    return np.abs(found - expected)


async def disagreement(rollouts: RolloutPool, learners: LearnerGroup) -> float:
    """The largest of them."""
    return float((await differences(rollouts, learners)).max())


async def two_steps(
    model: Path, learners: LearnerGroup, rollouts: RolloutPool
) -> tuple[list[UpdateReport], np.ndarray, np.ndarray]:
    """Reports of two steps, and the differences (steps, tokens) before and after each weight sync."""
    await asyncio.gather(
        rollouts.ready(),
        learners.set_up(str(model), ALGORITHM, dtype="float32", temperature=1.0, mismatch_limit=LIMIT),
    )
    await learners.connect(rollouts.actors)
    reports, stale, synced = [], [], []
    for step in range(2):
        groups = await sample_groups(rollouts, step)
        reports.append(await learners.update(groups, policy_version=step))
        stale.append(await differences(rollouts, learners))
        await learners.publish(step + 1)
        synced.append(await differences(rollouts, learners))
    return reports, np.stack(stale), np.stack(synced)


def stop(learners: LearnerGroup) -> None:
    for actor in learners.actors:
        ray.kill(actor)


@pytest.fixture(scope="module")
def learners(ray_cluster) -> Iterator[LearnerGroup]:
    """Two ranks that take one model after the other: starting processes would be most of the time."""
    group = LearnerGroup(TRAINING, deadlines=DeadlinesConfig())
    yield group
    stop(group)


@pytest.mark.parametrize("family", FAMILIES)
def test_two_steps_train_and_engine_and_learner_agree(learners, tmp_path, record_property, family):
    """With a tied LM head and with one of its own; both engines start at once, since that is most of the time."""
    models = {kind: save_tiny(tmp_path / kind, family, tied=kind == "tied") for kind in ("tied", "untied")}
    config = RolloutConfig(max_model_len=256)
    engines = {
        kind: RolloutPool(str(model), config, dtype="float32", seed=0, deadlines=DeadlinesConfig())
        for kind, model in models.items()
    }
    try:
        for kind, model in models.items():
            # The update itself refuses rollouts whose sampled tokens disagree by more than the limit.
            reports, stale, synced = asyncio.run(two_steps(model, learners, engines[kind]))
            engines[kind].end()
            # The table in docs/models.md: pytest --junitxml=... -o junit_family=xunit1
            record_property(f"{kind}_max_nats", f"{synced.max():.1e}")
            record_property(f"{kind}_mean_nats", f"{synced.mean():.1e}")
            for report in reports:
                assert report.metrics["learner/grad_norm"] > 1e-2, kind
                assert report.metrics["policy/mismatch_max"] < LIMIT, kind
            assert stale.max(axis=1).min() > 1000 * LIMIT, kind
            assert synced.max() < LIMIT, kind
    finally:
        for rollouts in engines.values():
            rollouts.end()


def made_up_groups(model: Path) -> list[RolloutGroup]:
    """Rollouts nobody sampled, with the log-probabilities that plain transformers gives them."""
    policy = AutoModelForCausalLM.from_pretrained(model).eval()
    generator = np.random.default_rng(7)
    groups = []
    for n in range(2):
        prompt = generator.integers(0, 250, size=6).tolist()
        rollouts = []
        for g, tokens in enumerate((2, 70, 5, 3, 8)):
            response = generator.integers(0, 250, size=tokens).tolist()
            with torch.no_grad():
                table = torch.log_softmax(policy(torch.tensor([[*prompt, *response]])).logits[0, 5:-1], dim=-1)
            log_probs = table.gather(1, torch.tensor(response)[:, None]).squeeze(1).numpy()
            ids = np.array(response, dtype=np.int32)
            rollouts.append(Rollout(n, g, ids, log_probs, "", FinishReason.stop, policy_version=0, seed=0))
        verdicts = tuple(Verdict(Outcome.correct if g % 2 else Outcome.wrong, float(g % 2)) for g in range(5))
        groups.append(RolloutGroup(Prompt(str(n), "", "", tuple(prompt)), tuple(rollouts), verdicts))
    return groups


async def learn(
    model: Path, groups: list[RolloutGroup], folder: Path, config: LearnerConfig
) -> tuple[UpdateReport, dict[str, torch.Tensor]]:
    """One step on given rollouts; its report and the weights after it."""
    learners = LearnerGroup(config, deadlines=DeadlinesConfig())
    try:
        await learners.set_up(str(model), ALGORITHM, dtype="float32", temperature=1.0, mismatch_limit=LIMIT)
        report = await learners.update(groups, policy_version=0)
        await learners.export(folder)
        return report, AutoModelForCausalLM.from_pretrained(folder).state_dict()
    finally:
        stop(learners)


def test_experts_learn_the_same_on_any_number_of_ranks(ray_cluster, tmp_path):
    """With so few tokens in a micro-batch most experts see none of them, or a whole rank has nothing to do."""
    model = save_tiny(tmp_path / "model", "qwen3_moe", num_experts=8)
    groups = made_up_groups(model)
    results = []
    for ranks, budget in ((1, 8192), (2, 80)):
        config = LearnerConfig(
            num_ranks=ranks, updates_per_step=2, tokens_per_micro_batch=budget, learning_rate=1e-4, adam_eps=1e-2
        )
        results.append(asyncio.run(learn(model, groups, tmp_path / str(ranks), config)))
    (expected_report, expected), (report, found) = results
    for name in ("loss/surrogate", "learner/grad_norm", "policy/entropy"):
        assert report.metrics[name] == pytest.approx(expected_report.metrics[name], rel=1e-4, abs=1e-7), name
    before = AutoModelForCausalLM.from_pretrained(model).state_dict()
    assert not torch.equal(
        expected["model.layers.0.mlp.experts.down_proj"], before["model.layers.0.mlp.experts.down_proj"]
    )
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, atol=1e-6, rtol=1e-4, msg=name)
