"""The learner's weights as a stream of whole tensors, gathered from ZeRO-3's shards one decoder layer at a time."""

from collections.abc import Iterator
from typing import Any

import deepspeed
import torch
from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource


class Zero3Source(WeightSource):
    """vLLM's `WeightSource` over the parameters of a ZeRO-3 module; iterating is collective over the learner ranks.

    The peak is one group of whole parameters beside the shards: a decoder layer, or the embeddings.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        """Stream `module`, whose parameters DeepSpeed has partitioned; tied parameters appear once."""
        # Any: DeepSpeed adds the whole shape to each parameter.
        self._parameters: dict[str, Any] = dict(module.named_parameters())

    def metadata(self) -> list[ParamMeta]:
        """Names, dtypes and whole shapes, without gathering."""
        return [
            ParamMeta(name, parameter.dtype, tuple(parameter.ds_shape)) for name, parameter in self._parameters.items()
        ]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield `(name, whole tensor)`; the tensor is valid until the next group begins."""
        for group in self.groups():
            parameters = [self._parameters[name] for name in group]
            with deepspeed.zero.GatheredParameters(parameters):
                for name, parameter in zip(group, parameters, strict=True):
                    yield name, parameter.data
