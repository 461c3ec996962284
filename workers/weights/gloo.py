"""A CPU backend for vLLM's weight-transfer interface: one stateless gloo group, weights broadcast in buckets.

vLLM ships NCCL and CUDA IPC backends and accepts others through its factories; this is the one for machines without a
GPU. Learner rank 0 is rank 0 of the group, the engines follow. Importing the module registers both sides.
"""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, ClassVar, Self

import torch
from torch.distributed import BroadcastOptions, ProcessGroup
from vllm.distributed.utils import stateless_init_torch_distributed_process_group
from vllm.distributed.weight_transfer.base import (
    ParamMeta,
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    WeightSource,
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import (
    WeightTransferEngineFactory,
    WeightTransferTrainerFactory,
)
from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from workers.addresses import listening
from workers.weights.buckets import buckets

BACKEND = "gloo"

POLL_S = 0.0005
"""How often the sender looks whether the engines are still with it."""


@dataclass
class GlooInitInfo(WeightTransferInitInfo):
    """How an engine finds the group."""

    master_address: str
    master_port: int
    world_size: int
    timeout_s: float
    rank: int
    """1 for the first engine; the client fills it in."""


@dataclass
class GlooUpdateInfo(WeightTransferUpdateInfo):
    """What the stream will hold, in order."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]


@dataclass
class GlooTrainerInitInfo(TrainerInitInfo):
    """How the learner opens the group; `rank` is the learner rank."""

    backend: ClassVar[str] = BACKEND

    master_address: str
    master_port: int
    world_size: int
    """Engines plus the sender."""
    timeout_s: float


def _join(address: str, port: int, rank: int, world_size: int, timeout_s: float) -> ProcessGroup:
    return stateless_init_torch_distributed_process_group(
        address,
        port,
        rank,
        world_size,
        "gloo",
        listen_socket=listening(address, port) if rank == 0 else None,
        timeout=timedelta(seconds=timeout_s),
    )


def _broadcast(group: ProcessGroup, tensor: torch.Tensor) -> Any:
    """Begin; the returned work is waited for."""
    options = BroadcastOptions()
    options.rootRank = 0
    return group.broadcast([tensor], options)


def _send(group: ProcessGroup, tensor: torch.Tensor, received: Future[None]) -> None:
    """Broadcast to the engines, unless one of them gives up: what it says would come after this wait's deadline."""
    work = _broadcast(group, tensor)
    while not work.is_completed():
        if received.done():
            received.result()
        time.sleep(POLL_S)
    work.wait()


def _fill_bucket(weights: Iterator[tuple[str, torch.Tensor]], bucket: list[ParamMeta]) -> torch.Tensor:
    """Copy the next weights of the stream into one flat tensor; a gathered weight does not outlive its turn."""
    sizes = [torch.Size(meta.shape).numel() for meta in bucket]
    flat = torch.empty(sum(sizes), dtype=bucket[0].dtype)
    for meta, part in zip(bucket, flat.split(sizes), strict=True):
        name, weight = next(weights)
        if name != meta.name:
            raise RuntimeError(f"the weight source yields {name} where its metadata says {meta.name}")
        part.copy_(weight.detach().flatten())
    return flat


class GlooWeightTransferEngine(WeightTransferEngine[GlooInitInfo, GlooUpdateInfo]):
    """The engine's side: receives buckets and loads them layer by layer into the live model."""

    init_info_cls = GlooInitInfo
    update_info_cls = GlooUpdateInfo

    _group: ProcessGroup | None = None

    def init_transfer_engine(self, init_info: GlooInitInfo) -> None:
        """Join the group; blocks until the learner and all engines are there."""
        self._group = _join(
            init_info.master_address,
            init_info.master_port,
            init_info.rank,
            init_info.world_size,
            init_info.timeout_s,
        )

    def start_weight_update(self) -> None:
        """Undo the packing of the CPU kernels, so that checkpoint-format weights can be loaded."""
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: GlooUpdateInfo) -> None:
        """Receive one stream of weights."""
        if self._group is None:
            raise RuntimeError("weight transfer before init_transfer_engine")
        metadata = [
            ParamMeta(name, getattr(torch, dtype), tuple(shape))
            for name, dtype, shape in zip(update_info.names, update_info.dtype_names, update_info.shapes, strict=True)
        ]
        for bucket in buckets(metadata):
            sizes = [torch.Size(meta.shape).numel() for meta in bucket]
            flat = torch.empty(sum(sizes), dtype=bucket[0].dtype)
            _broadcast(self._group, flat).wait()
            self.model.load_weights(
                (meta.name, part.view(meta.shape)) for meta, part in zip(bucket, flat.split(sizes), strict=True)
            )

    def finish_weight_update(self) -> None:
        """Pack the new weights for the CPU kernels."""
        finalize_layerwise_reload(self.model, self.model_config)
        # vLLM 0.32 leaves a tied LM head with the packed copy of the old embedding: log-probabilities stay those of the
        # old policy although every parameter is new. Packing it again is what the parity probe checks.
        for module in self.model.modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)
            # Experts are the same story: the CPU kernel reads packed weights, and vLLM 0.32 packs them at start only.
            elif isinstance(module, RoutedExperts):
                module.quant_method.moe_kernel.fused_experts.process_weights_after_loading(module)

    def shutdown(self) -> None:
        """Leave the group."""
        self._group = None


class GlooTrainerWeightTransferEngine(TrainerWeightTransferEngine[GlooTrainerInitInfo]):
    """The learner's side: gathers the sharded weights on every rank, sends them from rank 0."""

    init_info_cls = GlooTrainerInitInfo

    _group: ProcessGroup | None = None
    version = 0
    """Policy version that the next `send_weights` announces."""

    @classmethod
    def trainer_init(cls, init_info: GlooTrainerInitInfo, *, client: Any, source: WeightSource | None = None) -> Self:
        """Open the group while the engines join it."""
        engine = cls(client=client, source=source, is_sender=init_info.is_sender)
        if engine.is_sender:
            info = GlooInitInfo(
                init_info.master_address, init_info.master_port, init_info.world_size, init_info.timeout_s, rank=0
            )
            with ThreadPoolExecutor(max_workers=1) as executor:
                joined = executor.submit(client.init_weight_transfer_engine, asdict(info))
                engine._group = _join(info.master_address, info.master_port, 0, info.world_size, info.timeout_s)
                joined.result()
        return engine

    def send_weights(self) -> None:
        """One update round trip; collective over the learner ranks."""
        assert self.source is not None
        metadata = self.source.metadata()
        group = self._group
        if group is None:  # not the sender: only takes part in the gathers
            for _ in self.source:
                pass
            return
        info = GlooUpdateInfo(
            names=[meta.name for meta in metadata],
            dtype_names=[str(meta.dtype).removeprefix("torch.") for meta in metadata],
            shapes=[list(meta.shape) for meta in metadata],
        )
        self.client.start_weight_update()
        with ThreadPoolExecutor(max_workers=1) as executor:
            received = executor.submit(self.client.update_weights, asdict(info))
            weights = iter(self.source)
            for bucket in buckets(metadata):
                _send(group, _fill_bucket(weights, bucket), received)
            for name, _ in weights:  # exhausts the iterator, which closes its last gather on every rank
                raise RuntimeError(f"the weight source yields more than its metadata says: {name}")
            received.result()
        self.client.finish_weight_update(weight_version=str(self.version))

    def shutdown(self) -> None:
        """Leave the group."""
        self._group = None


WeightTransferEngineFactory.register_engine(BACKEND, GlooWeightTransferEngine)
WeightTransferTrainerFactory.register_engine(BACKEND, GlooTrainerWeightTransferEngine)
