"""One learner rank: the old-policy pass, credit, and the optimizer steps of a batch.

Collectives happen here, at the edge: `delta` gets tensors and denominators. What a rank computes depends on the rows
it was dealt; the sums over ranks do not.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from delta.advantages import AdvantageConfig
from delta.aggregations import AggregationConfig, MiniBatch
from delta.credit import Credit, CreditConfig, CreditInputs, TokenSpace
from delta.data.collate import collate, rewards_of
from delta.data.micro_batch import MicroBatch
from delta.data.partition import RowCost
from delta.diagnostics import LearnerSums, check_mismatch
from delta.importance import ImportanceConfig, NoneConfig
from delta.losses import RegularizationConfig, kl_estimate, kl_penalty, weighted_sum
from delta.surrogates import SurrogateConfig
from delta.tokens import OldTokens, join
from delta.types import RolloutGroup, UpdateReport
from workers.device import clock, device
from workers.learner.config import LearnerConfig
from workers.learner.data_ranks import data_ranks
from workers.learner.engine import whole_lm_head
from workers.learner.policy import TokenStatistics
from workers.learner.share import Share, shares


@dataclass(kw_only=True, slots=True)
class AlgorithmConfig:
    """What an update computes, as opposed to how: one choice from each group, and what may be added to them."""

    advantage: AdvantageConfig
    credit: CreditConfig
    surrogate: SurrogateConfig
    aggregation: AggregationConfig
    importance: ImportanceConfig = field(default_factory=NoneConfig)
    regularization: RegularizationConfig = field(default_factory=RegularizationConfig)


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """What is fixed about a share before the first optimizer step."""

    tokens: OldTokens
    coefficients: Tensor
    """(S,) credit."""
    importance: Tensor | None
    """(S,) correction for who sampled the tokens; None for none."""


class Learner:
    """The update of one batch on one rank; all ranks call the same methods in the same order."""

    def __init__(
        self,
        engine: Any,
        algorithm: AlgorithmConfig,
        config: LearnerConfig,
        *,
        mismatch_limit: float,
        reference: Any = None,
    ) -> None:
        """Drive a DeepSpeed engine around a `Policy`.

        Args:
            engine: From `create_engine`.
            algorithm: What to compute.
            config: How.
            mismatch_limit: Refuse rollouts whose log-probabilities differ from the learner's by more, in nats.
            reference: From `create_reference`; needed where the algorithm has a KL term.
        """
        self._mismatch_limit = mismatch_limit
        self._engine = engine
        self._reference = reference
        self._algorithm = algorithm
        self._config = config
        self._ranks = data_ranks(sequence_parallel=config.sequence_parallel)

    def set_algorithm(self, algorithm: AlgorithmConfig) -> None:
        """Compute something else from the next update on."""
        self._algorithm = algorithm

    def update(self, groups: Sequence[RolloutGroup], *, policy_version: int) -> UpdateReport:
        """Train on one batch: `updates_per_step` optimizer steps; every rank returns the same report.

        Raises:
            MismatchError: The rollouts were not sampled from the policy the learner holds; nothing was trained.
        """
        updates = self._shares(groups)
        where = f"rollouts of policy {policy_version}"
        sums = LearnerSums(device=device())
        metrics = {"time/old_pass_s": 0.0, "time/credit_s": 0.0}
        prepared = None
        # On-policy, the first pass of the update is the pass under the old policy, unless credit has to come before.
        if len(updates) > 1 or self._algorithm.credit.needs_old_pass():
            prepared, metrics = self._assign_credit(
                [share for update in updates for share in update], sums, seed=policy_version
            )
            check_mismatch(sums.mismatch_max(self._ranks.max), self._mismatch_limit, where=where)
        credited = clock()
        for update in updates:
            sums.add_grad_norm(self._step(update, prepared, sums, where=where))
        return UpdateReport(
            policy_version,
            {
                **sums.metrics(self._ranks.sum, self._ranks.max),
                **metrics,
                "time/update_s": clock() - credited,
            },
        )

    def coefficients(self, groups: Sequence[RolloutGroup]) -> tuple[Tensor, Tensor]:
        """Places (S,) of this rank's response tokens in the batch, and their credit (S,); nothing is trained."""
        flat = [share for update in self._shares(groups) for share in update]
        space = self._algorithm.credit.new_space(self._engine.module.logits)
        old = [self._old_pass(share, space) for share in flat]
        return torch.cat([share.places for share in flat]), self._credit(old, space, seed=0).coefficients

    def log_probs(self, token_ids: Sequence[int]) -> Tensor:
        """Log-probability of every token but the first: the learner's side of the parity probe; collective.

        At temperature 1, since engines apply none to what they did not sample.
        """
        # As a packed row that every group of ranks can share: the last tokens are dummies.
        inputs = list(token_ids[:-1])
        filling = -len(inputs) % self._config.sequence_parallel
        micro_batch = MicroBatch(
            token_ids=torch.tensor([inputs + [0] * filling]),
            predictors=torch.arange(len(inputs)),
            targets=torch.tensor(token_ids[1:]),
            row_lengths=(len(inputs) + filling,),
        ).to(device())
        self._engine.eval()
        with torch.no_grad():
            return self._engine(micro_batch, temperature=1.0).log_probs

    def _shares(self, groups: Sequence[RolloutGroup]) -> list[list[Share]]:
        """This rank's micro-batches, by optimizer step."""
        rewards, judged = rewards_of(groups)
        return shares(
            collate(groups, self._algorithm.advantage.advantages(rewards, judged)),
            self._config,
            group_size=len(groups[0].rollouts),
            ranks=self._ranks,
            cost=RowCost(attention_length=self._engine.module.attention_length),
            device=device(),
        )

    def _assign_credit(
        self, flat: Sequence[Share], sums: LearnerSums, *, seed: int
    ) -> tuple[Iterator[Prepared], dict[str, float]]:
        """All shares under the old policy, with credit; and the metrics of it."""
        space = self._algorithm.credit.new_space(self._engine.module.logits)
        started = clock()
        old = [self._old_pass(share, space) for share in flat]
        passed = clock()
        credit = self._credit(old, space, seed=seed)
        coefficients = credit.coefficients.split([len(tokens.rows) for tokens in old])
        prepared = [self._prepare(tokens, part, sums) for tokens, part in zip(old, coefficients, strict=True)]
        times = {"time/old_pass_s": passed - started, "time/credit_s": clock() - passed}
        return iter(prepared), {**credit.metrics, **times}

    @torch.no_grad()
    def _old_pass(self, share: Share, space: TokenSpace | None) -> OldTokens:
        """The one forward pass under the old policy; the token gradients of credit are taken from it."""
        self._engine.eval()
        statistics = self._engine(share.micro_batch, with_entropy=True)
        assert statistics.entropy is not None
        tokens = share.tokens(
            log_probs=statistics.log_probs, entropy=statistics.entropy, ref_log_probs=self._reference_log_probs(share)
        )
        if space is not None:
            sided = tokens.sided
            space.append(
                statistics.hidden[sided],
                statistics.log_probs[sided],
                share.micro_batch.targets[sided],
                share.advantages[sided],
            )
        return tokens

    def _credit(self, old: Sequence[OldTokens], space: TokenSpace | None, *, seed: int) -> Credit:
        """Coefficients of this rank's tokens, in the order of the shares."""
        inputs = CreditInputs(tokens=join(old), space=space, all_reduce=self._ranks.sum, seed=seed)
        with whole_lm_head(self._engine) if space is not None and space.needs_lm_head else contextlib.nullcontext():
            return self._algorithm.credit.estimate(inputs)

    def _prepare(self, tokens: OldTokens, coefficients: Tensor, sums: LearnerSums) -> Prepared:
        importance = self._algorithm.importance.weights(tokens)
        sums.add_old(tokens, coefficients, importance)
        return Prepared(tokens, coefficients, importance)

    def _prepare_now(self, share: Share, statistics: TokenStatistics, sums: LearnerSums) -> Prepared:
        """The same from the update's own pass, where the policy is the old one still."""
        assert statistics.entropy is not None
        tokens = share.tokens(
            log_probs=statistics.log_probs.detach(),
            entropy=statistics.entropy.detach(),
            ref_log_probs=self._reference_log_probs(share),
        )
        credit = self._algorithm.credit.estimate(CreditInputs(tokens=tokens, all_reduce=self._ranks.sum))
        return self._prepare(tokens, credit.coefficients, sums)

    @torch.no_grad()
    def _reference_log_probs(self, share: Share) -> Tensor | None:
        """(S,) under the reference policy, where the algorithm measures against one."""
        if not self._algorithm.regularization.kl:
            return None
        log_probs: Tensor = self._reference(share.micro_batch).log_probs
        return log_probs

    def _step(
        self, update: Sequence[Share], prepared: Iterator[Prepared] | None, sums: LearnerSums, *, where: str
    ) -> float:
        """One optimizer step over the global mini-batch; the gradient norm before clipping."""
        loss_rows = [int(share.rows[share.loss_mask].unique().numel()) for share in update]
        counts = torch.tensor([sum(int(share.loss_mask.sum()) for share in update), sum(loss_rows)])
        mini_batch = MiniBatch(*self._ranks.sum(counts).tolist())
        with_entropy = prepared is None or self._algorithm.regularization.entropy > 0
        self._engine.train()
        for share in update:
            statistics = self._engine(share.micro_batch, with_entropy=with_entropy)
            ready = self._prepare_now(share, statistics, sums) if prepared is None else next(prepared)
            # DeepSpeed averages gradients over all ranks; the loss is a sum over them.
            loss = self._loss(statistics, ready, mini_batch, sums)
            self._engine.backward(loss * torch.distributed.get_world_size())
        if prepared is None:
            check_mismatch(sums.mismatch_max(self._ranks.max), self._mismatch_limit, where=where)
        self._engine.step()
        return float(self._engine.get_global_grad_norm())

    def _loss(self, statistics: TokenStatistics, part: Prepared, mini_batch: MiniBatch, sums: LearnerSums) -> Tensor:
        """Share of one micro-batch in the loss of the mini-batch.

        L = - sum w lambda rho J + sum w (beta KL - eta H)      w: aggregation, lambda: credit, rho: importance
        """
        algorithm, old = self._algorithm, part.tokens
        regularization = algorithm.regularization
        log_ratio = statistics.log_probs.detach() - old.log_probs
        terms = algorithm.surrogate.terms(statistics.log_probs, old)
        credit = algorithm.credit.refresh(part.coefficients, log_ratio, old)
        weights = algorithm.aggregation.weights(old.row_tokens, mini_batch)
        loss = -weighted_sum(terms.objective, weights, credit, part.importance)
        sums.add_update(loss.detach(), log_ratio[old.loss_mask], terms.clipped[old.loss_mask])
        weights = weights * old.loss_mask
        if old.ref_log_probs is not None:
            estimator = regularization.kl_estimator
            penalty = kl_penalty(statistics.log_probs, old.ref_log_probs, estimator=estimator)
            loss = loss + regularization.kl * weighted_sum(penalty, weights)
            estimate = kl_estimate(statistics.log_probs.detach(), old.ref_log_probs, estimator=estimator)
            sums.add_mean("policy/ref_kl", estimate[old.loss_mask])
        if regularization.entropy and statistics.entropy is not None:
            loss = loss - regularization.entropy * weighted_sum(statistics.entropy, weights)
        return loss
