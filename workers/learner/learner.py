"""One learner rank: the old-policy pass, credit, and the optimizer steps of a batch.

Collectives happen here, at the edge: `delta` gets tensors and denominators. What a rank computes depends on the rows
it was dealt; the sums over ranks do not.
"""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from delta.advantages import AdvantageConfig
from delta.aggregations import AggregationConfig, MiniBatch
from delta.credit import Credit, CreditConfig, CreditInputs, TokenSpace
from delta.data.collate import MicroBatch, collate, pad_rows, response_index, rewards_of, row_index
from delta.data.partition import partition_rows
from delta.diagnostics import LearnerSums, check_mismatch
from delta.importance import ImportanceConfig, NoneConfig
from delta.losses import RegularizationConfig, kl_estimate, kl_penalty, weighted_sum
from delta.surrogates import SurrogateConfig
from delta.tokens import OldTokens, join
from delta.types import RolloutGroup, TrainBatch, UpdateReport
from workers.learner.config import LearnerConfig
from workers.learner.engine import whole_lm_head


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
class Share:
    """This rank's part of one micro-batch: rows as a padded rectangle, and per-token data of the same order."""

    micro_batch: MicroBatch
    rows: Tensor
    """(S,) which of its rows each token is in."""
    places: Tensor
    """(S,) of its tokens among the response tokens of the global batch."""
    advantages: Tensor
    """(S,) of each token's rollout."""
    loss_mask: Tensor
    """(S,) bool"""
    rollout_log_probs: Tensor
    """(S,)"""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A share with what is fixed before the first optimizer step."""

    micro_batch: MicroBatch
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
        rank: int,
        mismatch_limit: float,
        reference: Any = None,
    ) -> None:
        """Drive a DeepSpeed engine around a `Policy`.

        Args:
            engine: From `create_engine`.
            algorithm: What to compute.
            config: How.
            rank: This rank.
            mismatch_limit: Refuse rollouts whose log-probabilities differ from the learner's by more, in nats.
            reference: From `create_reference`; needed where the algorithm has a KL term.
        """
        self._mismatch_limit = mismatch_limit
        self._engine = engine
        self._reference = reference
        self._algorithm = algorithm
        self._config = config
        self._rank = rank

    def set_algorithm(self, algorithm: AlgorithmConfig) -> None:
        """Compute something else from the next update on."""
        self._algorithm = algorithm

    def update(self, groups: Sequence[RolloutGroup], *, policy_version: int) -> UpdateReport:
        """Train on one batch: `updates_per_step` optimizer steps; every rank returns the same report.

        Raises:
            MismatchError: The rollouts were not sampled from the policy the learner holds; nothing was trained.
        """
        started = time.perf_counter()
        batch = self._batch(groups)
        updates = self._shares(batch, group_size=len(groups[0].rollouts))
        sums = LearnerSums()

        shares = [share for update in updates for share in update]
        space = self._algorithm.credit.new_space(self._engine.module.logits)
        old = [self._old_pass(share, space) for share in shares]
        old_done = time.perf_counter()
        credit = self._credit(old, space, seed=policy_version)
        prepared = self._prepare(shares, old, credit)
        credit_done = time.perf_counter()
        for part in prepared:
            sums.add_old(part.tokens, part.coefficients, part.importance)
        check_mismatch(sums.mismatch_max(all_max), self._mismatch_limit, where=f"rollouts of policy {policy_version}")

        position = 0
        for update in updates:
            sums.add_grad_norm(self._step(prepared[position : position + len(update)], sums))
            position += len(update)
        updated = time.perf_counter()
        return UpdateReport(
            policy_version,
            {
                **sums.metrics(all_reduce, all_max),
                **credit.metrics,
                "time/old_pass_s": old_done - started,
                "time/credit_s": credit_done - old_done,
                "time/update_s": updated - credit_done,
            },
        )

    def coefficients(self, groups: Sequence[RolloutGroup]) -> tuple[Tensor, Tensor]:
        """Places (S,) of this rank's response tokens in the batch, and their credit (S,); nothing is trained."""
        batch = self._batch(groups)
        shares = [share for update in self._shares(batch, group_size=len(groups[0].rollouts)) for share in update]
        space = self._algorithm.credit.new_space(self._engine.module.logits)
        old = [self._old_pass(share, space) for share in shares]
        return torch.cat([share.places for share in shares]), self._credit(old, space, seed=0).coefficients

    def log_probs(self, token_ids: Sequence[int]) -> Tensor:
        """Log-probability of every token but the first: the learner's side of the parity probe; collective."""
        micro_batch = MicroBatch(
            token_ids=torch.tensor([token_ids[:-1]]),
            predictors=torch.arange(len(token_ids) - 1),
            targets=torch.tensor(token_ids[1:]),
        )
        self._engine.eval()
        with torch.no_grad():
            return self._engine(micro_batch).log_probs

    def _batch(self, groups: Sequence[RolloutGroup]) -> TrainBatch:
        rewards, judged = rewards_of(groups)
        return collate(groups, self._algorithm.advantage.advantages(rewards, judged))

    def _shares(self, batch: TrainBatch, *, group_size: int) -> list[list[Share]]:
        """This rank's micro-batches, by optimizer step."""
        partition = partition_rows(
            batch.row_lengths,
            updates=self._config.updates_per_step,
            group_size=group_size,
            ranks=torch.distributed.get_world_size(),
            token_budget=self._config.tokens_per_micro_batch,
        )
        return [[_share(batch, rows) for rows in per_rank[self._rank]] for per_rank in partition.micro_batches]

    @torch.no_grad()
    def _old_pass(self, share: Share, space: TokenSpace | None) -> OldTokens:
        """The one forward pass under the old policy; the token gradients of credit are taken from it."""
        self._engine.eval()
        statistics = self._engine(share.micro_batch, with_entropy=True)
        tokens = OldTokens(
            rows=share.rows,
            places=share.places,
            advantages=share.advantages,
            loss_mask=share.loss_mask,
            rollout_log_probs=share.rollout_log_probs,
            log_probs=statistics.log_probs,
            entropy=statistics.entropy,
            ref_log_probs=self._reference(share.micro_batch).log_probs if self._algorithm.regularization.kl else None,
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
        inputs = CreditInputs(tokens=join(old), space=space, all_reduce=all_reduce, seed=seed)
        with whole_lm_head(self._engine) if space is not None and space.needs_lm_head else contextlib.nullcontext():
            return self._algorithm.credit.estimate(inputs)

    def _prepare(self, shares: Sequence[Share], old: Sequence[OldTokens], credit: Credit) -> list[Prepared]:
        coefficients = credit.coefficients.split([len(tokens.rows) for tokens in old])
        return [
            Prepared(share.micro_batch, tokens, weights, self._algorithm.importance.weights(tokens))
            for share, tokens, weights in zip(shares, old, coefficients, strict=True)
        ]

    def _step(self, parts: Sequence[Prepared], sums: LearnerSums) -> float:
        """One optimizer step over the global mini-batch; the gradient norm before clipping."""
        counts = [[int(part.tokens.loss_mask.sum()), part.tokens.loss_rows] for part in parts]
        tokens, rows = all_reduce(torch.tensor([[0, 0], *counts]).sum(dim=0)).tolist()
        self._engine.train()
        for part in parts:
            loss = self._loss(part, MiniBatch(tokens, rows), sums)
            # DeepSpeed averages gradients over ranks; the loss is a sum over them.
            self._engine.backward(loss * torch.distributed.get_world_size())
        self._engine.step()
        return float(self._engine.get_global_grad_norm())

    def _loss(self, part: Prepared, mini_batch: MiniBatch, sums: LearnerSums) -> Tensor:
        """Share of one micro-batch in the loss of the mini-batch.

        L = - sum w lambda rho J + sum w (beta KL - eta H)      w: aggregation, lambda: credit, rho: importance
        """
        algorithm, old = self._algorithm, part.tokens
        regularization = algorithm.regularization
        statistics = self._engine(part.micro_batch, with_entropy=regularization.entropy > 0)
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
        if statistics.entropy is not None:
            loss = loss - regularization.entropy * weighted_sum(statistics.entropy, weights)
        return loss


def all_reduce(tensor: Tensor) -> Tensor:
    """Sum over the learner ranks."""
    torch.distributed.all_reduce(tensor)
    return tensor


def all_max(tensor: Tensor) -> Tensor:
    """Maximum over the learner ranks."""
    torch.distributed.all_reduce(tensor, op=torch.distributed.ReduceOp.MAX)
    return tensor


def _share(batch: TrainBatch, rows: Sequence[int]) -> Share:
    places = response_index(batch, rows)
    owners = row_index(batch, rows)
    return Share(
        micro_batch=pad_rows(batch, rows),
        rows=torch.from_numpy(owners),
        places=torch.from_numpy(places),
        advantages=torch.from_numpy(batch.advantages[list(rows)])[owners],
        loss_mask=torch.from_numpy(batch.loss_mask[places]),
        rollout_log_probs=torch.from_numpy(batch.rollout_log_probs[places]),
    )
