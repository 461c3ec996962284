"""GPUs: as many as the configuration counts on, with memory for it, and software that can use them."""

from launch.doctor.check import Finding, failed, ok, skipped, warning
from launch.nvidia import installed_gpus
from workers.controller.config import TrainConfig

IN_USE = 0.1
"""Share of a GPU's memory from which on somebody else seems to use it."""


def gpus(config: TrainConfig) -> Finding:
    """What the driver shows, and what torch sees of it, against `cluster.num_gpus` and `cluster.gpu_memory_gib`."""
    import torch

    wanted = config.cluster.num_gpus
    found, trouble = installed_gpus()
    visible = torch.cuda.device_count()
    names = ", ".join(sorted({gpu.name for gpu in found}))
    if not wanted:
        return skipped(
            f"cluster.num_gpus=0: the run uses none{f' of the {len(found)} ({names})' if found else ''}".rstrip()
        )
    remedy = f"Set cluster.num_gpus={visible}, ask the scheduler for more, or see nvidia-smi."
    if trouble or len(found) < wanted:
        return failed(trouble or f"{len(found)} GPUs ({names})", expected=f"{wanted} GPUs", remedy=remedy)
    if torch.version.cuda is None:
        return failed(
            f"{len(found)} GPUs ({names}), but torch {torch.__version__} is its CPU build",
            expected="a CUDA build",
            remedy="Install the GPU stack: pip install 'delta-rlvr[gpu]'.",
        )
    if visible < wanted:
        return failed(
            f"torch for CUDA {torch.version.cuda} sees {visible} of {len(found)} GPUs, driver {found[0].driver}",
            expected=f"{wanted} GPUs",
            remedy=f"{remedy} CUDA_VISIBLE_DEVICES may hide them, or the driver be too old.",
        )
    least = min(found, key=lambda gpu: gpu.memory_mib)
    if least.memory_mib < config.cluster.gpu_memory_gib * 1024 * 0.95:  # drivers keep a little for themselves
        return failed(
            f"GPU {least.index} has {least.memory_mib / 1024:.0f} GiB",
            expected=f"cluster.gpu_memory_gib={config.cluster.gpu_memory_gib:g}",
            remedy="Plan with what there is.",
        )
    busy = [gpu for gpu in found if gpu.used_mib > IN_USE * gpu.memory_mib]
    if busy:
        return warning(
            "; ".join(f"GPU {gpu.index}: {gpu.used_mib} of {gpu.memory_mib} MiB in use" for gpu in busy),
            expected="free GPUs",
            remedy="End who uses them (nvidia-smi shows who), or leave them out with CUDA_VISIBLE_DEVICES.",
        )
    return ok(f"{len(found)} x {names}, {least.memory_mib / 1024:.0f} GiB, driver {found[0].driver}, {visible} visible")
