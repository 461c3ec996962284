"""Metrics of an update: running sums on a rank, one reduction, plain floats."""

import hashlib
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from delta.errors import MismatchError
from delta.rewards.final_answer import BOX, MARKER
from delta.tokens import OldTokens
from delta.types import FinishReason, Outcome, RolloutGroup


def check_mismatch(difference: float, limit: float, *, where: str) -> None:
    """Stop when engine and learner disagree on the log-probabilities of the same tokens.

    Args:
        difference: Largest absolute difference seen, in nats.
        limit: Largest tolerated one.
        where: What was compared.

    Raises:
        MismatchError: The difference is above the limit, or not a number.
    """
    if not difference <= limit:
        raise MismatchError(
            f"{where}: engine and learner differ by up to {difference:.2g} nats on the same tokens; expected at most "
            f"rollout.mismatch_limit={limit:g}. The engine does not hold the learner's weights, or computes in another "
            "precision: training on such rollouts would be off-policy without saying so. Check the weight sync and "
            "model.dtype; raise the limit only if the precision explains the difference (bfloat16: about 0.2)."
        )


class LearnerSums:
    """Accumulates what the metrics of one batch are made of.

    policy/entropy              mean entropy of the old policy's next-token distributions, in nats
    policy/mismatch_mean, _max  |learner - engine| log-probability of the sampled tokens before the update, in nats
    policy/kl                   mean of r - 1 - log r (k3 estimate of KL(old || new)), over all optimizer steps, in nats
    policy/ref_kl               divergence from the reference policy where the algorithm has such a term, in nats
    loss/surrogate              the loss without added terms, mean over optimizer steps
    loss/clip_fraction          share of tokens whose gradient a bound removed
    credit/lambda_std, _max     spread and largest of the coefficients
    importance/mean, _zero      factor between engine and learner where it is corrected for: mean, share that is 0
    learner/grad_norm           before clipping, mean over optimizer steps whose gradient was finite
    learner/updates             optimizer steps that were made
    learner/skipped_updates     those that were not, because their gradient was not finite
    learner/tokens              response tokens of the batch
    """

    def __init__(self, *, device: torch.device | str = "cpu") -> None:
        """Start at zero; the sums are kept on `device`, where the tokens are, so that nobody waits for them."""
        self._sums = torch.zeros(9, dtype=torch.float64, device=device)
        self._mismatch = torch.zeros(1, dtype=torch.float64, device=device)
        self._lambda_max = torch.zeros(1, dtype=torch.float64, device=device)
        self._grad_norms: list[float] = []
        self._means: dict[str, Tensor] = {}

    def add_mean(self, name: str, values: Tensor) -> None:
        """Add to the mean called `name`; every rank has to do so for every micro-batch, be it of no token."""
        part = torch.stack([values.double().sum(), self._count(values)])
        self._means[name] = self._means.get(name, torch.zeros_like(part)) + part

    def add_old(self, tokens: OldTokens, coefficients: Tensor, importance: Tensor | None) -> None:
        """Add the tokens of one micro-batch under the old policy."""
        if importance is not None:
            self.add_mean("importance/mean", importance)
            self.add_mean("importance/zero", importance == 0)
        log_probs, entropy = tokens.log_probs, tokens.entropy
        if not len(log_probs):
            return
        mismatch = (log_probs - tokens.rollout_log_probs).abs().double()
        weights = coefficients.double()
        self._sums[:5] += torch.stack(
            [
                self._count(log_probs),
                entropy.double().sum(),
                mismatch.sum(),
                weights.sum(),
                weights.square().sum(),
            ]
        )
        # A NaN must not hide behind the comparison.
        self._mismatch = torch.maximum(self._mismatch, mismatch.nan_to_num(nan=torch.inf).max())
        self._lambda_max = torch.maximum(self._lambda_max, weights.max())

    def add_update(self, loss: Tensor, log_ratio: Tensor, clipped: Tensor) -> None:
        """Add one micro-batch of an optimizer step; `loss` is its share of the mini-batch's loss."""
        log_ratio = log_ratio.double()
        self._sums[5:] += torch.stack(
            [
                self._count(log_ratio),
                loss.double(),
                clipped.double().sum(),
                (torch.expm1(log_ratio) - log_ratio).sum(),
            ]
        )

    def _count(self, values: Tensor) -> Tensor:
        return self._sums.new_full((), float(len(values)))

    def add_grad_norm(self, norm: float) -> None:
        """Add one optimizer step; one whose gradient is not finite changes no weight."""
        self._grad_norms.append(norm)

    def mismatch_max(self, all_max: Callable[[Tensor], Tensor]) -> float:
        """Largest difference between learner and engine over all ranks so far, in nats."""
        return float(all_max(self._mismatch).item())

    def metrics(self, all_reduce: Callable[[Tensor], Tensor], all_max: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Reduce over the ranks and finish the means."""
        counted, entropy, mismatch, weights, squares, trained, loss, clipped, kl = all_reduce(self._sums).tolist()
        mismatch_max, lambda_max = all_max(torch.cat([self._mismatch, self._lambda_max])).tolist()
        tokens, trained, steps = max(counted, 1.0), max(trained, 1.0), max(len(self._grad_norms), 1)
        norms = [norm for norm in self._grad_norms if math.isfinite(norm)]
        mean = weights / tokens
        names = sorted(self._means)
        sums = all_reduce(torch.stack([self._means[name] for name in names])).tolist() if names else []
        return {
            **{name: total / max(count, 1.0) for name, (total, count) in zip(names, sums, strict=True)},
            "policy/entropy": entropy / tokens,
            "policy/mismatch_mean": mismatch / tokens,
            "policy/mismatch_max": mismatch_max,
            "policy/kl": kl / trained,
            "loss/surrogate": loss / steps,
            "loss/clip_fraction": clipped / trained,
            "credit/lambda_std": max(squares / tokens - mean * mean, 0.0) ** 0.5,
            "credit/lambda_max": lambda_max,
            "learner/grad_norm": sum(norms) / max(len(norms), 1),
            "learner/updates": float(len(norms)),
            "learner/skipped_updates": float(len(self._grad_norms) - len(norms)),
            "learner/tokens": counted,
        }


def is_reasoned(response: str) -> bool:
    """Whether a response writes anything before it commits to an answer, instead of answering directly."""
    marks = [place for place in (response.find(MARKER), response.find(BOX)) if place >= 0]
    return bool(marks) and bool(response[: min(marks)].strip())


def batch_metrics(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """Metrics of a step's rollouts and verdicts.

    reward/mean                   mean reward of the judged rollouts
    reward/<outcome>              share of rollouts with each outcome
    reward_part/<name>            mean of each part of the reward, unweighted, over the rollouts that have it
    verifier/failed               timeouts and errors, a count
    verifier/seconds_mean, _max   execution of an answer
    verifier/queue_seconds_mean   waiting and travelling of an answer
    reward/mixed_groups           share of groups whose rewards differ: the others carry no signal
    rollout/length_mean           tokens per rollout
    rollout/truncated             share cut at the token limit
    rollout/reasoned              share that writes a step before it commits
    rollout/tokens                tokens sampled
    rollout/digest                hash of prompts, token ids and verdicts: equal in two runs if and only if these are
    """
    pairs = [pair for group in groups for pair in zip(group.rollouts, group.verdicts, strict=True)]
    judged = [verdict.reward for _, verdict in pairs if verdict.is_judged]
    parts: dict[str, list[float]] = {}
    for _, verdict in pairs:
        for name, value in verdict.parts.items():
            parts.setdefault(name, []).append(value)
    mixed = [group.is_mixed for group in groups]
    tokens = sum(len(rollout.token_ids) for rollout, _ in pairs)
    return {
        "reward/mean": sum(judged) / max(len(judged), 1),
        **{
            f"reward/{outcome.value}": sum(verdict.outcome is outcome for _, verdict in pairs) / len(pairs)
            for outcome in Outcome
        },
        "reward/mixed_groups": sum(mixed) / len(groups),
        **{f"reward_part/{name}": sum(values) / len(values) for name, values in parts.items()},
        "verifier/failed": float(sum(not verdict.outcome.is_judgement for _, verdict in pairs)),
        "verifier/seconds_mean": sum(verdict.seconds for _, verdict in pairs) / len(pairs),
        "verifier/seconds_max": max(verdict.seconds for _, verdict in pairs),
        "verifier/queue_seconds_mean": sum(verdict.queue_seconds for _, verdict in pairs) / len(pairs),
        "rollout/length_mean": tokens / len(pairs),
        "rollout/truncated": sum(rollout.finish_reason is FinishReason.length for rollout, _ in pairs) / len(pairs),
        "rollout/reasoned": sum(is_reasoned(rollout.text) for rollout, _ in pairs) / len(pairs),
        "rollout/tokens": float(tokens),
        "rollout/digest": float(rollout_digest(groups)),
    }


def rollout_digest(groups: Sequence[RolloutGroup]) -> int:
    """A 52-bit hash of what was sampled and how it was judged, in order; a float holds it exactly."""
    digest = hashlib.blake2b(digest_size=8)
    for group in groups:
        digest.update(f"{group.prompt.id!r}".encode())
        for rollout, verdict in zip(group.rollouts, group.verdicts, strict=True):
            digest.update(f"{rollout.token_ids.tolist()} {verdict.outcome.value} {verdict.reward!r};".encode())
    return int.from_bytes(digest.digest()) >> 12
