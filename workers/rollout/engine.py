"""The inference engine behind a protocol, and vLLM as its implementation."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from delta.types import FinishReason, Floats, TokenIds
from workers.rollout.config import RolloutConfig


@dataclass(frozen=True, slots=True)
class SamplingRequest:
    """One completion to sample."""

    prompt_token_ids: tuple[int, ...]
    temperature: float
    """0 is greedy."""
    max_new_tokens: int
    seed: int
    top_p: float = 1.0
    """Sample from the most probable tokens that together have this probability; log-probabilities are among them."""
    stop_at_end: bool = True
    """End at the end token; False samples exactly `max_new_tokens`, for measurements at given lengths."""


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """What the engine sampled for the request of the same place."""

    place: int
    token_ids: TokenIds
    log_probs: Floats
    finish_reason: FinishReason


class Engine(Protocol):
    """What a rollout worker needs from an inference engine."""

    def sample(self, requests: Sequence[SamplingRequest]) -> Iterator[list[Completion]]:
        """Sample all requests together; yield completions as they finish, in engine steps."""
        ...

    def log_probs(self, token_ids: Sequence[int]) -> Floats:
        """Log-probability of every token but the first, given those before it, at temperature 1."""
        ...

    def transfer(self, method: str, *args: Any) -> None:
        """Call a weight-transfer method of vLLM's worker interface."""
        ...

    def set_policy_version(self, version: int) -> None:
        """Name the weights now loaded, and drop what was cached under the old ones."""
        ...


class VllmEngine:
    """vLLM in this process, one engine step at a time.

    In-process (no engine core process) because a rollout worker is a process of its own already: it starts in a third
    of the time and leaves no shared memory behind when killed.
    """

    def __init__(self, model_path: str, config: RolloutConfig, *, eos_token_id: int, dtype: str, seed: int) -> None:
        """Load the model. The environment of `engine_environment` must be set before the first vLLM import."""
        from vllm import EngineArgs, LLMEngine
        from vllm.config import WeightTransferConfig
        from vllm.platforms import current_platform

        import workers.weights.gloo  # noqa: F401  registers our transfer backend with vLLM

        self._eos_token_id = eos_token_id
        self._engine = LLMEngine.from_engine_args(
            EngineArgs(
                model=model_path,
                skip_tokenizer_init=True,
                dtype=dtype,
                max_model_len=config.max_model_len,
                max_num_seqs=config.max_num_seqs,
                # The log-probabilities of what was really sampled, that is, after the temperature.
                logprobs_mode="processed_logprobs",
                weight_transfer_config=WeightTransferConfig(backend=config.weight_transfer.value),
                disable_log_stats=True,
                seed=seed,
                **device_settings(config, on_gpu=current_platform.is_cuda()),
            )
        )
        self._next_id = 0

    def sample(self, requests: Sequence[SamplingRequest]) -> Iterator[list[Completion]]:
        """See `Engine.sample`."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        places: dict[str, int] = {}
        for place, request in enumerate(requests):
            parameters = SamplingParams(
                temperature=request.temperature,
                top_p=request.top_p,
                max_tokens=request.max_new_tokens,
                # A seed per request makes a rollout independent of what else is in its batch.
                seed=request.seed if request.temperature > 0 else None,
                logprobs=0,
                flat_logprobs=True,
                detokenize=False,
                stop_token_ids=[self._eos_token_id] if request.stop_at_end else [],
                ignore_eos=not request.stop_at_end,
                output_kind=RequestOutputKind.FINAL_ONLY,
                skip_clone=True,
            )
            places[self._add(request.prompt_token_ids, parameters)] = place
        try:
            while places:
                finished = [
                    self._completion(places.pop(output.request_id), output)
                    for output in self._engine.step()
                    if output.finished
                ]
                if finished:
                    yield finished
        finally:
            self._engine.abort_request(list(places))

    def log_probs(self, token_ids: Sequence[int]) -> Floats:
        """See `Engine.log_probs`."""
        from vllm import SamplingParams

        self._add(tuple(token_ids), SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False))
        outputs: list[Any] = []
        while not outputs:
            outputs = [output for output in self._engine.step() if output.finished]
        rows = outputs[0].prompt_logprobs[1:]
        return np.array([row[token].logprob for row, token in zip(rows, token_ids[1:], strict=True)], dtype=np.float32)

    def transfer(self, method: str, *args: Any) -> None:
        """See `Engine.transfer`."""
        self._engine.collective_rpc(method, args=args)

    def set_policy_version(self, version: int) -> None:
        """See `Engine.set_policy_version`."""
        self._engine.reset_prefix_cache()
        self._engine.set_weight_version(str(version))

    def _add(self, prompt_token_ids: tuple[int, ...], parameters: Any) -> str:
        self._next_id += 1
        request_id = str(self._next_id)
        self._engine.add_request(request_id, {"prompt_token_ids": list(prompt_token_ids)}, parameters)
        return request_id

    @staticmethod
    def _completion(place: int, output: Any) -> Completion:
        sampled = output.outputs[0]
        return Completion(
            place=place,
            token_ids=np.asarray(sampled.token_ids, dtype=np.int32),
            log_probs=np.asarray(sampled.logprobs.logprobs, dtype=np.float32),
            finish_reason=FinishReason(sampled.finish_reason),
        )


def device_settings(config: RolloutConfig, *, on_gpu: bool) -> dict[str, Any]:
    """What vLLM is told on one kind of device only."""
    if on_gpu:
        return {
            "gpu_memory_utilization": config.gpu_memory_utilization,
            "tensor_parallel_size": config.tensor_parallel_size,
            # Never Ray, whose cluster the engine would find: what it may use is what its actor was given.
            "distributed_executor_backend": "uni" if config.tensor_parallel_size == 1 else "mp",
            # The processes of a tensor-parallel engine learn of our transfer backend by importing this.
            "worker_extension_cls": "workers.weights.extension.WeightTransferExtension",
        }
    return {
        # vLLM 0.32 rewinds a request's random generator when a prompt is split over two engine steps, which generators
        # of a CPU cannot do: prompts are prefilled whole.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(config.max_model_len, 8192),
        # Compiling buys a tenth of the speed of a small model and costs twenty seconds of start-up.
        "enforce_eager": True,
    }


def engine_environment(config: RolloutConfig, *, on_gpu: bool = False) -> dict[str, str]:
    """Environment of a process that hosts a `VllmEngine`; read by vLLM and OpenMP when they load."""
    cpu = {
        "VLLM_CPU_KVCACHE_SPACE": str(config.kv_cache_gib),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        # vLLM compiles a function of its sampler whatever `enforce_eager` says, which takes a C++ compiler and seconds.
        "TORCHDYNAMO_DISABLE": "1",
    }
    return {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        **({} if on_gpu else cpu),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
        "OMP_NUM_THREADS": str(config.threads_per_worker),
    }
