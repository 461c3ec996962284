"""The LM head as the learner needs it: what the policy says of given tokens, never all logits of a sequence.

At 8,192 tokens and a vocabulary of 150,000 the logits alone take 4.9 GB in float32, their softmax and gradient as much
each. Here a chunk of tokens is computed, summed up and forgotten; the backward pass computes it again from the hidden
states, which costs one more product with the LM head.

Libraries fuse the head with a cross-entropy, whose gradient they take in the forward pass. A policy's loss is a
function of log-probabilities that is only known afterwards, and wants entropies beside them.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from delta.errors import ConfigError
from workers.cpu_linear import OneDnnLinear, product


class HeadOutput(NamedTuple):
    """What the policy says of targets."""

    log_probs: Tensor
    """(S,) float32, in nats."""
    entropy: Tensor | None
    """(S,) float32 of the next-token distribution, in nats; None unless asked for."""


class LMHead(nn.Linear):
    """A causal LM's output layer that answers for given tokens; same parameters, same names (see `adopt`)."""

    temperature: float
    chunk_tokens: int

    @staticmethod
    def adopt(causal_lm: Any, *, temperature: float, chunk_tokens: int) -> "LMHead":
        """Turn the output layer of a causal LM of transformers into this one, in place.

        Args:
            causal_lm: The model.
            temperature: Of sampling; logits are divided by it.
            chunk_tokens: Tokens whose logits exist at a time.

        Raises:
            ConfigError: The output layer is no plain linear layer.
        """
        head = causal_lm.get_output_embeddings()
        if type(head) not in (nn.Linear, OneDnnLinear):
            raise ConfigError(
                f"the LM head of {type(causal_lm).__name__} is a {type(head).__name__}; expected a plain linear layer. "
                "Quantised and factorised heads are not supported."
            )
        head.__class__ = LMHead
        head.temperature, head.chunk_tokens = temperature, chunk_tokens
        return head  # type: ignore[no-any-return]

    def forward(  # type: ignore[override]
        self, hidden: Tensor, targets: Tensor, with_entropy: bool = False, temperature: float | None = None
    ) -> HeadOutput:
        """Log-probabilities, and on request entropies, of (S,) targets after (S, H) hidden states.

        At the temperature of sampling, unless another one is given.
        """
        temperature = self.temperature if temperature is None else temperature
        log_probs, entropy = _TokenStatistics.apply(
            hidden, self.weight, self.bias, targets, temperature, self.chunk_tokens, with_entropy
        )
        return HeadOutput(log_probs, entropy if with_entropy else None)

    def logits(self, hidden: Tensor) -> Tensor:
        """(S, V) float32 logits at the sampling temperature for (S, H) inputs.

        The module's hooks are passed by, for in a forward pass of its own ZeRO-3 would lose track of the order of the
        layers: the parameters must be whole when this is called.
        """
        return _logits(hidden.to(self.weight.dtype), self.weight, self.bias, self.temperature)


class _TokenStatistics(torch.autograd.Function):
    """log p(y) = z_y - log sum exp z and H = - sum p log p, for z = (W h + b) / temperature, chunk by chunk.

    d log p(y) / dz = e_y - p        dH / dz = - p (log p + H)
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        chunk_tokens: int,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        count = len(targets)
        log_probs = hidden.new_empty(count, dtype=torch.float32)
        normalizers = torch.empty_like(log_probs)
        entropy = hidden.new_empty(count if with_entropy else 0, dtype=torch.float32)
        for start in range(0, count, chunk_tokens):
            place = slice(start, start + chunk_tokens)
            logits = _logits(hidden[place], weight, bias, temperature)
            normalizers[place] = logits.logsumexp(dim=-1)
            log_probs[place] = logits.gather(-1, targets[place, None]).squeeze(-1) - normalizers[place]
            if with_entropy:
                logits -= normalizers[place, None]
                entropy[place] = -torch.linalg.vecdot(logits.exp(), logits)
        ctx.save_for_backward(hidden, weight, *([] if bias is None else [bias]), targets, normalizers, entropy)
        ctx.settings = temperature, chunk_tokens, with_entropy, bias is not None
        return log_probs, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        of_log_probs, of_entropy = gradients
        temperature, chunk_tokens, with_entropy, has_bias = ctx.settings
        hidden, weight, *bias, targets, normalizers, entropy = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias, *_ = ctx.needs_input_grad
        hidden_gradient = torch.zeros_like(hidden) if wants_hidden else None
        # Sums over chunks in float32, whatever the precision of the weights.
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        bias_gradient = torch.zeros_like(bias[0], dtype=torch.float32) if has_bias and wants_bias else None
        with_entropy = with_entropy and bool(of_entropy.any())
        for start in range(0, len(targets), chunk_tokens):
            place = slice(start, start + chunk_tokens)
            logits = _logits(hidden[place], weight, bias[0] if has_bias else None, temperature)
            logits -= normalizers[place, None]  # log p from here on
            probabilities = logits.exp()
            if with_entropy:
                logits += entropy[place, None]
                logits *= of_entropy[place, None]
                logits += of_log_probs[place, None]
                gradient = probabilities.mul_(logits).neg_()
            else:
                gradient = probabilities.mul_(-of_log_probs[place, None])
            del logits
            chosen = targets[place, None]
            gradient.scatter_add_(1, chosen, of_log_probs[place, None])
            gradient /= temperature
            gradient = gradient.to(weight.dtype)
            if hidden_gradient is not None:
                hidden_gradient[place] = product(gradient, weight.t())
            if weight_gradient is not None:
                weight_gradient += product(gradient.t(), hidden[place].t())
            if bias_gradient is not None:
                bias_gradient += gradient.sum(dim=0, dtype=torch.float32)
        return (
            hidden_gradient,
            None if weight_gradient is None else weight_gradient.to(weight.dtype),
            None if bias_gradient is None else bias_gradient.to(weight.dtype),
            *(None,) * 4,
        )


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    """(S, V) float32, fresh: the caller may write into it."""
    logits = product(hidden, weight, bias).float()
    return logits if temperature == 1 else logits.div_(temperature)
