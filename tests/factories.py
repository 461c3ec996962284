"""Small, valid records for tests: say what matters, the rest is filled in."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from delta.tokens import OldTokens
from delta.types import FinishReason, Outcome, Prompt, Rollout, RolloutGroup, Verdict


def make_prompt(token_ids: Sequence[int] = (11, 12), *, id: str = "p", answer: str = "1") -> Prompt:
    return Prompt(id, f"text of {id}", answer, tuple(token_ids))


def make_rollout(
    token_ids: Sequence[int] = (21, 22, 23),
    *,
    group: int = 0,
    index: int = 0,
    rollout_log_probs: Sequence[float] | None = None,
    text: str = "#### 1",
    finish_reason: FinishReason = FinishReason.stop,
) -> Rollout:
    log_probs = [-0.5] * len(token_ids) if rollout_log_probs is None else rollout_log_probs
    return Rollout(
        group=group,
        index=index,
        token_ids=np.asarray(token_ids, dtype=np.int32),
        rollout_log_probs=np.asarray(log_probs, dtype=np.float32),
        text=text,
        finish_reason=finish_reason,
        policy_version=0,
        seed=index,
    )


def make_verdict(reward: float, outcome: Outcome | None = None) -> Verdict:
    return Verdict(outcome or (Outcome.correct if reward > 0 else Outcome.wrong), reward)


def make_group(
    rewards: Sequence[float] = (1.0, 0.0),
    *,
    group: int = 0,
    prompt: Prompt | None = None,
    outcomes: Sequence[Outcome] | None = None,
    responses: Sequence[Sequence[int]] | None = None,
) -> RolloutGroup:
    size = len(rewards)
    responses = responses or [(21, 22, 23)] * size
    outcomes_or_none = outcomes or [None] * size
    return RolloutGroup(
        prompt=prompt or make_prompt(id=f"p{group}"),
        rollouts=tuple(make_rollout(tokens, group=group, index=index) for index, tokens in enumerate(responses)),
        verdicts=tuple(
            make_verdict(reward, outcome) for reward, outcome in zip(rewards, outcomes_or_none, strict=True)
        ),
    )


def make_tokens(
    *,
    log_probs: Tensor,
    rows: Tensor | None = None,
    places: Tensor | None = None,
    advantages: Tensor | None = None,
    loss_mask: Tensor | None = None,
    rollout_log_probs: Tensor | None = None,
    entropy: Tensor | None = None,
    ref_log_probs: Tensor | None = None,
) -> OldTokens:
    """Tokens of one row, all on the loss mask, with advantage 1, unless said otherwise."""
    return OldTokens(
        rows=torch.zeros(len(log_probs), dtype=torch.int64) if rows is None else rows,
        places=torch.arange(len(log_probs)) if places is None else places,
        advantages=torch.ones_like(log_probs) if advantages is None else advantages,
        loss_mask=torch.ones_like(log_probs, dtype=torch.bool) if loss_mask is None else loss_mask,
        rollout_log_probs=log_probs if rollout_log_probs is None else rollout_log_probs,
        log_probs=log_probs,
        entropy=torch.zeros_like(log_probs) if entropy is None else entropy,
        ref_log_probs=ref_log_probs,
    )
