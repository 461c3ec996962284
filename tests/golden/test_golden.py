"""One recorded update per algorithm: loss, gradient and coefficients of a small fixed batch.

The recordings say what every algorithm computes today, to five digits. A commit that changes one of them has to explain
why in its message: a refactoring changes none. `python -m tests.golden.test_golden --write` records them anew.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

from delta.advantages import AdvantageConfig, GroupAdvantageConfig, ReinforcePlusPlusConfig, RlooConfig
from delta.aggregations import (
    AggregationConfig,
    ConstantLengthConfig,
    MiniBatch,
    SequenceMeanConfig,
    SequenceSumConfig,
    TokenMeanConfig,
)
from delta.credit import (
    CreditConfig,
    CreditInputs,
    DiscriminativeConfig,
    FipoConfig,
    ForkingConfig,
    UniformConfig,
    WithinSideConfig,
)
from delta.credit.discriminative import Proxy
from delta.losses import weighted_sum
from delta.rewards.parts import overlong
from delta.surrogates import CispoConfig, ClippedConfig, GspoConfig, SapoConfig, SurrogateConfig
from delta.tokens import OldTokens
from delta.types import Outcome, Sample, Verdict
from tests.factories import make_tokens

FOLDER = Path(__file__).parent
GROUPS, GROUP_SIZE, LIMIT, HIDDEN, VOCABULARY = 3, 4, 8, 4, 6


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """What an update is put together from; DAPO's parts unless said otherwise."""

    advantage: AdvantageConfig = field(default_factory=GroupAdvantageConfig)
    credit: CreditConfig = field(default_factory=UniformConfig)
    surrogate: SurrogateConfig = field(default_factory=ClippedConfig)
    aggregation: AggregationConfig = field(default_factory=TokenMeanConfig)
    overlong_buffer: int = 0


PPO = ClippedConfig(epsilon_low=0.2, epsilon_high=0.2, dual_clip=float("inf"))

ALGORITHMS = {
    "grpo": Algorithm(surrogate=PPO, aggregation=SequenceMeanConfig()),
    "dr_grpo": Algorithm(
        advantage=GroupAdvantageConfig(normalize_std=False),
        surrogate=PPO,
        aggregation=ConstantLengthConfig(length=LIMIT),
    ),
    "rloo": Algorithm(advantage=RlooConfig(), surrogate=PPO, aggregation=SequenceSumConfig()),
    "reinforce_plus_plus": Algorithm(advantage=ReinforcePlusPlusConfig(), surrogate=PPO),
    "dapo": Algorithm(overlong_buffer=3),
    "gspo": Algorithm(surrogate=GspoConfig(), aggregation=SequenceMeanConfig()),
    "sapo": Algorithm(surrogate=SapoConfig(), aggregation=SequenceMeanConfig()),
    "cispo": Algorithm(surrogate=CispoConfig()),
    "fipo": Algorithm(credit=FipoConfig()),
    "forking": Algorithm(credit=ForkingConfig()),
    "delta": Algorithm(credit=DiscriminativeConfig()),
    "delta_last_layer": Algorithm(credit=DiscriminativeConfig(proxy=Proxy.last_layer)),
    "within_side": Algorithm(credit=WithinSideConfig()),
}


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Everything but the advantages, which are the algorithm's."""

    rewards: Tensor
    judged: Tensor
    lengths: Tensor
    hidden: Tensor
    lm_head: Tensor
    targets: Tensor
    log_probs: Tensor
    tokens: OldTokens


def uniform(state: int = 5) -> Iterator[float]:
    """A linear congruential generator over [0, 1): the same numbers with every version of every library."""
    while True:
        state = (1664525 * state + 1013904223) % 2**32
        yield state / 2**32


def fixed_batch() -> Batch:
    """Twelve rollouts in a mixed group, one of equal rewards and one with an unjudged rollout; float64."""
    numbers = uniform()

    def around_zero(*shape: int, width: float) -> Tensor:
        values = [width * sum(next(numbers) - 0.5 for _ in range(3)) for _ in range(torch.Size(shape).numel())]
        return torch.tensor(values, dtype=torch.float64).reshape(shape)

    lengths = torch.tensor([[5, 8, 1, 3], [4, 2, 6, 3], [7, 1, 4, 5]])
    count = int(lengths.sum())
    hidden, lm_head = around_zero(count, HIDDEN, width=2.0), around_zero(VOCABULARY, HIDDEN, width=2.0)
    targets = torch.tensor([int(VOCABULARY * next(numbers)) for _ in range(count)])
    distribution = torch.log_softmax(hidden @ lm_head.T, dim=-1)
    old_log_probs = distribution.gather(1, targets.unsqueeze(1)).squeeze(1)
    moved = around_zero(count, width=0.5)
    moved[6] = 2.5  # of a wrong rollout, beyond the dual clip
    return Batch(
        rewards=torch.tensor([[1, 0, 0, 1], [1, 1, 1, 1], [0, 1, 7, 0]], dtype=torch.float64),
        judged=torch.tensor([[True] * 4, [True] * 4, [True, True, False, True]]),
        lengths=lengths,
        hidden=hidden,
        lm_head=lm_head,
        targets=targets,
        log_probs=old_log_probs + moved,
        tokens=make_tokens(
            log_probs=old_log_probs,
            rows=torch.repeat_interleave(torch.arange(GROUPS * GROUP_SIZE), lengths.flatten()),
            loss_mask=torch.tensor([next(numbers) > 0.15 for _ in range(count)]),
            entropy=-(distribution.exp() * distribution).sum(dim=1),
        ),
    )


def advantages_of(algorithm: Algorithm, batch: Batch) -> Tensor:
    """(N, G)"""
    rewards = batch.rewards
    if algorithm.overlong_buffer:
        verdict = Verdict(Outcome.correct, 1.0)
        samples = [Sample("", "", tokens=length, max_tokens=LIMIT) for length in batch.lengths.flatten().tolist()]
        losses = [overlong(sample, verdict, buffer=algorithm.overlong_buffer) for sample in samples]
        rewards = rewards + torch.tensor(losses).reshape(rewards.shape)
    return algorithm.advantage.advantages(rewards, batch.judged)


def credit_of(algorithm: Algorithm, batch: Batch, tokens: OldTokens) -> Tensor:
    """(S,) coefficients of the step in which the policy has moved to `batch.log_probs`."""
    space = algorithm.credit.new_space(lambda hidden: hidden.double() @ batch.lm_head.T)
    if space is not None:
        sided = tokens.sided
        space.append(batch.hidden[sided], tokens.log_probs[sided], batch.targets[sided], tokens.advantages[sided])
    credit = algorithm.credit.estimate(CreditInputs(tokens=tokens, space=space))
    return algorithm.credit.refresh(credit.coefficients, batch.log_probs - tokens.log_probs, tokens)


def update(algorithm: Algorithm) -> dict[str, Tensor]:
    """Loss, its gradient in the log-probabilities, and the coefficients."""
    batch = fixed_batch()
    old = batch.tokens
    tokens = make_tokens(
        log_probs=old.log_probs,
        rows=old.rows,
        advantages=advantages_of(algorithm, batch).flatten()[old.rows],
        loss_mask=old.loss_mask,
        entropy=old.entropy,
    )
    coefficients = credit_of(algorithm, batch, tokens)
    leaf = batch.log_probs.requires_grad_()
    mini_batch = MiniBatch(tokens=int(tokens.loss_mask.sum()), rows=tokens.loss_rows)
    weights = algorithm.aggregation.weights(tokens.row_tokens, mini_batch)
    loss = -weighted_sum(algorithm.surrogate.terms(leaf, tokens).objective, weights, coefficients)
    loss.backward()
    return {"loss": loss.detach(), "gradient": leaf.grad, "coefficients": coefficients.double()}


def to_json(values: dict[str, Tensor]) -> str:
    """The loss, and one line per rollout for what tokens have."""
    lengths = fixed_batch().lengths.flatten().tolist()

    def rounded(tensor: Tensor) -> str:
        return json.dumps([float(f"{value:.9g}") + 0.0 for value in tensor.tolist()])

    lines = [f'  "loss": {float(values["loss"]):.9g}']
    for name in ("gradient", "coefficients"):
        rows = ",\n    ".join(rounded(row) for row in values[name].split(lengths))
        lines.append(f'  "{name}": [\n    {rows}\n  ]')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def recorded(name: str) -> dict[str, Tensor]:
    """What `to_json` wrote."""
    values = json.loads((FOLDER / f"{name}.json").read_text())
    tokens = {key: [value for row in values[key] for value in row] for key in ("gradient", "coefficients")}
    return {key: torch.tensor(value, dtype=torch.float64) for key, value in {"loss": values["loss"], **tokens}.items()}


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("what", ["loss", "gradient", "coefficients"])
def test_update_is_the_recorded_one(name: str, what: str) -> None:
    torch.testing.assert_close(update(ALGORITHMS[name])[what], recorded(name)[what], rtol=1e-5, atol=1e-8)


def test_every_recording_belongs_to_an_algorithm() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(ALGORITHMS)


def test_every_algorithm_has_a_gradient_of_its_own() -> None:
    gradients = [update(algorithm)["gradient"] for algorithm in ALGORITHMS.values()]
    for place, gradient in enumerate(gradients):
        assert torch.isfinite(gradient).all()
        assert not any(torch.allclose(gradient, other, rtol=1e-3) for other in gradients[:place])


def test_batch_moves_far_enough_to_meet_every_bound() -> None:
    batch = fixed_batch()
    wrong = (batch.rewards == 0).flatten()[batch.tokens.rows] & batch.tokens.loss_mask
    ratios = (batch.log_probs - batch.tokens.log_probs).exp()
    assert (ratios[wrong] > 10).any()
    assert (ratios[wrong] < 0.8).any()
    assert (ratios[batch.tokens.loss_mask & ~wrong] > 1.28).any()
    assert not batch.tokens.loss_mask.all()


def main() -> None:
    """Record all algorithms anew."""
    if sys.argv[1:] != ["--write"]:
        raise SystemExit("usage: python -m tests.golden.test_golden --write")
    for name, algorithm in ALGORITHMS.items():
        (FOLDER / f"{name}.json").write_text(to_json(update(algorithm)))


if __name__ == "__main__":
    main()
