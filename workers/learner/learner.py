"""One learner rank: the old-policy pass, credit, and the optimizer steps of a batch.

Collectives happen here, at the edge: `delta` gets tensors and denominators. What a rank computes depends on the rows
it was dealt; the sums over ranks do not.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch import Tensor

from delta.advantages import GroupAdvantageConfig, group_advantages
from delta.credit import Credit, DiscriminativeConfig, UniformConfig, estimate_credit, token_vectors
from delta.data.collate import MicroBatch, collate, pad_rows, response_index, rewards_of
from delta.data.partition import partition_rows
from delta.diagnostics import LearnerSums, check_mismatch
from delta.losses import ClippedConfig, clipped_surrogate, weighted_token_mean
from delta.types import RolloutGroup, TrainBatch, UpdateReport
from workers.learner.config import LearnerConfig

CreditConfig = DiscriminativeConfig | UniformConfig


@dataclass(kw_only=True, slots=True)
class AlgorithmConfig:
    """What an update computes, as opposed to how."""

    advantage: GroupAdvantageConfig
    credit: CreditConfig
    loss: ClippedConfig


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """This rank's part of one micro-batch: rows as a padded rectangle, and per-token data of the same order."""

    micro_batch: MicroBatch
    places: Tensor
    """(S,) of its tokens among the response tokens of the global batch."""
    advantages: Tensor
    """(S,) of each token's rollout."""
    loss_mask: Tensor
    """(S,) bool"""
    rollout_log_probs: Tensor
    """(S,)"""


@dataclass(frozen=True, slots=True, eq=False)
class OldPolicy:
    """What the pass under the old policy leaves behind for the tokens of one share."""

    log_probs: Tensor
    """(S,)"""
    entropy: Tensor
    """(S,)"""
    vectors: Tensor
    """(number of sided loss-mask tokens, H) proxies of the tokens that carry an advantage; empty if nobody asks."""


class Learner:
    """The update of one batch on one rank; all ranks call the same methods in the same order."""

    def __init__(
        self, engine: Any, algorithm: AlgorithmConfig, config: LearnerConfig, *, rank: int, mismatch_limit: float
    ) -> None:
        """Drive a DeepSpeed engine around a `Policy`.

        Args:
            engine: From `create_engine`.
            algorithm: What to compute.
            config: How.
            rank: This rank.
            mismatch_limit: Refuse rollouts whose log-probabilities differ from the learner's by more, in nats.
        """
        self._mismatch_limit = mismatch_limit
        self._engine = engine
        self._algorithm = algorithm
        self._config = config
        self._rank = rank

    def set_algorithm(self, algorithm: AlgorithmConfig) -> None:
        """Compute something else from the next update on."""
        self._algorithm = algorithm

    def update(self, groups: Sequence[RolloutGroup], *, policy_version: int) -> UpdateReport:
        """Train on one batch of groups: `updates_per_step` optimizer steps; every rank returns the same report.

        Raises:
            MismatchError: The rollouts were not sampled from the policy the learner holds; nothing was trained.
        """
        started = time.perf_counter()
        batch = self._batch(groups)
        shares = self._shares(batch, group_size=len(groups[0].rollouts))
        sums = LearnerSums()

        flat = [share for update in shares for share in update]
        old = [self._old_pass(share) for share in flat]
        old_done = time.perf_counter()
        credit = self._credit(flat, old)
        coefficients = list(self._spread(credit, flat))
        credit_done = time.perf_counter()
        for share, past, weights in zip(flat, old, coefficients, strict=True):
            sums.add_old(past.log_probs, past.entropy, share.rollout_log_probs, weights)
        check_mismatch(sums.mismatch_max(all_max), self._mismatch_limit, where=f"rollouts of policy {policy_version}")

        position = 0
        for update in shares:
            span = slice(position, position + len(update))
            position += len(update)
            sums.add_grad_norm(self._step(update, old[span], coefficients[span], sums))
        updated = time.perf_counter()
        return UpdateReport(
            policy_version,
            {
                **sums.metrics(all_reduce, all_max),
                "credit/degenerate": float(credit.degenerate),
                "credit/temperature_positive": credit.temperatures[0],
                "credit/temperature_negative": credit.temperatures[1],
                "time/old_pass_s": old_done - started,
                "time/credit_s": credit_done - old_done,
                "time/update_s": updated - credit_done,
            },
        )

    def coefficients(self, groups: Sequence[RolloutGroup]) -> tuple[Tensor, Tensor]:
        """Places (S,) of this rank's response tokens in the batch, and their credit (S,); nothing is trained."""
        batch = self._batch(groups)
        flat = [share for update in self._shares(batch, group_size=len(groups[0].rollouts)) for share in update]
        credit = self._credit(flat, [self._old_pass(share) for share in flat])
        return torch.cat([share.places for share in flat]), torch.cat(list(self._spread(credit, flat)))

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
        advantages = group_advantages(rewards, judged, normalize_std=self._algorithm.advantage.normalize_std)
        return collate(groups, advantages)

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
    def _old_pass(self, share: Share) -> OldPolicy:
        """The one forward pass under the old policy; DelTA takes its token vectors from it."""
        self._engine.eval()
        statistics = self._engine(share.micro_batch, with_entropy=True)
        if isinstance(self._algorithm.credit, DiscriminativeConfig):
            sided = _sided(share)
            vectors = token_vectors(statistics.hidden[sided], statistics.log_probs[sided])
        else:
            vectors = statistics.hidden[:0]
        return OldPolicy(statistics.log_probs, statistics.entropy, vectors)

    def _credit(self, shares: Sequence[Share], old: Sequence[OldPolicy]) -> Credit:
        """Coefficients of this rank's sided tokens, in share order."""
        config = self._algorithm.credit
        advantages = torch.cat([share.advantages[_sided(share)] for share in shares])
        if isinstance(config, UniformConfig):
            return Credit(torch.ones_like(advantages), 1.0, degenerate=False, temperatures=(0.0, 0.0))
        return estimate_credit(
            torch.cat([past.vectors for past in old]),
            advantages,
            neutral_tokens=sum(int((share.loss_mask & (share.advantages == 0)).sum()) for share in shares),
            refinements=config.refinements,
            lambda_min=config.lambda_min,
            lambda_max=config.lambda_max,
            all_reduce=all_reduce,
        )

    def _spread(self, credit: Credit, shares: Sequence[Share]) -> Iterator[Tensor]:
        """Coefficients (S,) for every token of each share: 0 off the loss mask."""
        position = 0
        for share in shares:
            sided = _sided(share)
            weights = torch.where(share.loss_mask, credit.neutral_coefficient, 0.0)
            weights[sided] = credit.coefficients[position : position + int(sided.sum())]
            position += int(sided.sum())
            yield weights

    def _step(
        self, shares: Sequence[Share], old: Sequence[OldPolicy], coefficients: Sequence[Tensor], sums: LearnerSums
    ) -> float:
        """One optimizer step over the global mini-batch; the gradient norm before clipping."""
        config = self._algorithm.loss
        local_tokens = sum(int(share.loss_mask.sum()) for share in shares)
        tokens = int(all_reduce(torch.tensor([local_tokens], dtype=torch.int64)).item())
        self._engine.train()
        for share, past, weights in zip(shares, old, coefficients, strict=True):
            log_probs = self._engine(share.micro_batch).log_probs
            terms = clipped_surrogate(
                log_probs,
                past.log_probs,
                share.advantages,
                epsilon_low=config.epsilon_low,
                epsilon_high=config.epsilon_high,
                dual_clip=config.dual_clip,
            )
            loss = weighted_token_mean(terms.objective, weights, tokens=max(tokens, 1))
            # DeepSpeed averages gradients over ranks; the loss is a sum over them.
            self._engine.backward(loss * torch.distributed.get_world_size())
            sums.add_update(loss.detach(), log_probs.detach() - past.log_probs, terms.clipped & share.loss_mask)
        self._engine.step()
        return float(self._engine.get_global_grad_norm())


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
    lengths = batch.response_lengths[list(rows)]
    return Share(
        micro_batch=pad_rows(batch, rows),
        places=torch.from_numpy(places),
        advantages=torch.from_numpy(np.repeat(batch.advantages[list(rows)], lengths)),
        loss_mask=torch.from_numpy(batch.loss_mask[places]),
        rollout_log_probs=torch.from_numpy(batch.rollout_log_probs[places]),
    )


def _sided(share: Share) -> Tensor:
    """(S,) bool: loss-mask tokens of rollouts with an advantage, the ones that credit tells apart."""
    return share.loss_mask & (share.advantages != 0)
