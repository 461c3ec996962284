"""The policy as the learner runs it: a Hugging Face causal LM that answers for given tokens only."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from delta.data.micro_batch import MicroBatch
from workers.learner import attention
from workers.learner.lm_head import LMHead
from workers.learner.sequence_parallel import SHARED_ATTENTION, SequenceGroup

LM_HEAD_CHUNK_TOKENS = 1024
"""Tokens whose logits exist at a time, unless told otherwise."""


class TokenStatistics(NamedTuple):
    """What the policy says of the targets of a micro-batch; a tuple, because ZeRO-3's hooks look inside outputs."""

    log_probs: Tensor
    """(S,) float32, in nats; at the sampling temperature, unless another one was asked for."""
    hidden: Tensor
    """(S, H) input of the LM head at the positions that predict the targets."""
    entropy: Tensor | None
    """(S,) of the next-token distribution, in nats; None unless asked for."""


class Policy(nn.Module):
    """Forward pass over packed or padded rows, LM head over response positions only.

    The LM head is the widest matrix of the model; prompts and pads never reach it.
    """

    causal_lm: Any

    def __init__(
        self,
        causal_lm: Any,
        *,
        temperature: float,
        lm_head_chunk_tokens: int = LM_HEAD_CHUNK_TOKENS,
        sequence_group: SequenceGroup | None = None,
    ) -> None:
        """Wrap a causal LM of the transformers library, whose attention and LM head become ours.

        Args:
            causal_lm: The model.
            temperature: Of sampling.
            lm_head_chunk_tokens: Tokens whose logits exist at a time.
            sequence_group: From `share_sequences`; None where each rank has sequences of its own.
        """
        super().__init__()
        self.causal_lm = causal_lm
        self._sequence_group = sequence_group
        LMHead.adopt(causal_lm, temperature=temperature, chunk_tokens=lm_head_chunk_tokens)
        attention.register()
        causal_lm.set_attn_implementation(attention.ATTENTION if sequence_group is None else SHARED_ATTENTION)

    @property
    def lm_head(self) -> LMHead:
        """The model's output layer."""
        head: LMHead = self.causal_lm.get_output_embeddings()
        return head

    @property
    def attention_length(self) -> float:
        """Row length at which causal attention multiplies as often as the rest of a decoder layer.

        Products per token: n H for inner products and weighted sums over n / 2 positions each, against the usual 12 H^2
        parameters of a layer.
        """
        return 12.0 * float(self.causal_lm.config.hidden_size)

    def forward(
        self, micro_batch: MicroBatch, *, with_entropy: bool = False, temperature: float | None = None
    ) -> TokenStatistics:
        """Log-probabilities, and on request entropies, of the targets.

        Args:
            micro_batch: Rows and targets.
            with_entropy: Whether entropies are wanted.
            temperature: None for that of sampling.
        """
        if self._sequence_group is not None:
            return self._shared_forward(micro_batch, self._sequence_group, with_entropy, temperature)
        states = self._hidden_states(micro_batch, slice(None))
        hidden = states.flatten(0, 1)[micro_batch.predictors]
        statistics = self.lm_head(hidden, micro_batch.targets, with_entropy, temperature)
        return TokenStatistics(statistics.log_probs, hidden, statistics.entropy)

    def _shared_forward(
        self, micro_batch: MicroBatch, ranks: SequenceGroup, with_entropy: bool, temperature: float | None
    ) -> TokenStatistics:
        """Each rank computes its part of the sequence, and all get what there is to know of its targets."""
        place, mine, counts = ranks.part(micro_batch)
        states = self._hidden_states(micro_batch, place)
        hidden = states.flatten(0, 1)[micro_batch.predictors[mine] - place.start]
        statistics = self.lm_head(hidden, micro_batch.targets[mine], with_entropy, temperature)
        return TokenStatistics(
            ranks.gather(statistics.log_probs, counts),
            # Token gradients are taken from passes that nothing is trained by.
            hidden if torch.is_grad_enabled() else ranks.gather(hidden, counts),
            None if statistics.entropy is None else ranks.gather(statistics.entropy, counts),
        )

    def _hidden_states(self, micro_batch: MicroBatch, place: slice) -> Tensor:
        """(B, T', H) of the positions in `place`."""
        token_ids, lengths = micro_batch.token_ids, micro_batch.row_lengths
        packed: dict[str, Any] = {}
        if lengths is not None:
            device = token_ids.device
            packed["rows"] = attention.packed_rows(lengths, device, self.causal_lm.dtype)
            positions = torch.cat([torch.arange(length) for length in lengths])
            packed["position_ids"] = positions[place].unsqueeze(0).to(device)
        states: Tensor = self.causal_lm.base_model(
            input_ids=token_ids[:, place], use_cache=False, **packed
        ).last_hidden_state
        return states

    def logits(self, hidden: Tensor) -> Tensor:
        """(S, V) float32 logits at the sampling temperature; see `LMHead.logits`."""
        return self.lm_head.logits(hidden)
