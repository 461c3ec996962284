"""The policy as the learner runs it: a Hugging Face causal LM that answers for given tokens only."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from delta.data.collate import MicroBatch


class TokenStatistics(NamedTuple):
    """What the policy says of the targets of a micro-batch; a tuple, because ZeRO-3's hooks look inside outputs."""

    log_probs: Tensor
    """(S,) float32, at the sampling temperature, in nats."""
    hidden: Tensor
    """(S, H) input of the LM head at the positions that predict the targets."""
    entropy: Tensor | None
    """(S,) of the next-token distribution, in nats; None unless asked for."""


class Policy(nn.Module):
    """Forward pass over padded rows, LM head over response positions only.

    The LM head is the widest matrix of the model; prompts and pads never reach it.
    """

    def __init__(self, causal_lm: nn.Module, *, temperature: float) -> None:
        """Wrap a causal LM of the transformers library."""
        super().__init__()
        self.causal_lm: Any = causal_lm
        self.temperature = temperature

    def forward(self, micro_batch: MicroBatch, *, with_entropy: bool = False) -> TokenStatistics:
        """Log-probabilities, and on request entropies, of the targets."""
        states = self.causal_lm.base_model(input_ids=micro_batch.token_ids, use_cache=False).last_hidden_state
        hidden = states.flatten(0, 1)[micro_batch.predictors]
        logits = self.causal_lm.get_output_embeddings()(hidden).float() / self.temperature
        normalizer = logits.logsumexp(dim=-1)
        log_probs = logits.gather(-1, micro_batch.targets.unsqueeze(-1)).squeeze(-1) - normalizer
        entropy = None
        if with_entropy:
            probabilities = torch.softmax(logits, dim=-1)
            entropy = normalizer - (probabilities * logits).sum(dim=-1)
        return TokenStatistics(log_probs, hidden, entropy)

    def logits(self, hidden: Tensor) -> Tensor:
        """(S, V) float32 logits at the sampling temperature for (S, H) inputs of the LM head.

        The module's hooks are passed by, for in a forward pass of its own ZeRO-3 would lose track of the order of the
        layers: the parameters of the LM head must be whole when this is called.
        """
        head = self.causal_lm.get_output_embeddings()
        logits: Tensor = head.forward(hidden.to(head.weight.dtype))
        return logits.float() / self.temperature
