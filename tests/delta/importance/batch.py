"""Tokens on which engine and learner disagree, and the ratios that a loop finds in them."""

import math

import torch

from delta.importance import Level
from delta.tokens import OldTokens
from tests.objectives import old_tokens


def disagreeing_tokens(seed: int = 0) -> OldTokens:
    """Six rows with tokens off the loss mask, the whole of the fifth among them; ratios from about 0.1 to 10."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [4, 1, 6, 3, 2, 5]
    log_probs = -2 * torch.rand(21, generator=generator, dtype=torch.float64) - 0.05
    loss_mask = torch.rand(21, generator=generator) < 0.7
    loss_mask[14:16] = False
    return old_tokens(
        log_probs,
        rollout_log_probs=log_probs + torch.randn(21, generator=generator, dtype=torch.float64),
        row_lengths=lengths,
        loss_mask=loss_mask,
    )


def naive_ratios(tokens: OldTokens, level: Level) -> list[float]:
    """pi_learner / pi_engine of each token, or multiplied over the loss-mask tokens of its rollout."""
    own = [
        math.exp(learner) / math.exp(engine)
        for learner, engine in zip(tokens.log_probs.tolist(), tokens.rollout_log_probs.tolist(), strict=True)
    ]
    if level is Level.token:
        return own
    rows, counts = tokens.rows.tolist(), tokens.loss_mask.tolist()
    return [math.prod(own[k] for k in range(len(own)) if rows[k] == row and counts[k]) for row in rows]
