"""Small, valid records for tests: say what matters, the rest is filled in."""

from collections.abc import Sequence

import numpy as np

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
