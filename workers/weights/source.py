"""The learner's weights as a stream of whole tensors, gathered from ZeRO-3's shards one decoder layer at a time."""

from collections.abc import Iterator

import deepspeed
import torch
from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

from workers.learner.lora import policy_weights


class Zero3Source(WeightSource):
    """vLLM's `WeightSource` over the parameters of a ZeRO-3 module; iterating is collective over the learner ranks.

    Adapters are added to the weights that they belong to, and have no names of their own. The peak is one group of
    whole parameters beside the shards: a decoder layer, or the embeddings.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        """Stream `module`, whose parameters DeepSpeed has partitioned; tied parameters appear once."""
        self._weights = policy_weights(module)

    def metadata(self) -> list[ParamMeta]:
        """Names, dtypes and whole shapes, without gathering."""
        return [
            ParamMeta(name, weight.parameter.dtype, tuple(weight.parameter.ds_shape))
            for name, weight in self._weights.items()
        ]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield `(name, whole tensor)`; the tensor is valid until the next group begins."""
        for group in self.groups():
            weights = [self._weights[name] for name in group]
            parameters = [parameter for weight in weights for parameter in weight.parameters]
            with deepspeed.zero.GatheredParameters(parameters):
                for name, weight in zip(group, weights, strict=True):
                    yield name, weight.value()
