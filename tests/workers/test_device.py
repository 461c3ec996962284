"""What processes are told about their device, before and when they start."""

import os
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from delta.errors import ConfigError
from workers.cluster import ClusterConfig
from workers.controller.config import TrainConfig
from workers.device import check_build, clock, device
from workers.learner.config import LearnerConfig
from workers.learner.host_copies import HostCopies
from workers.learner.worker import learner_environment
from workers.rollout.config import RolloutConfig, WeightTransfer
from workers.rollout.engine import device_settings, engine_environment


def test_a_process_that_is_told_nothing_computes_on_the_cpu() -> None:
    assert os.environ["DS_ACCELERATOR"] == "cpu"
    assert device() == torch.device("cpu")
    assert clock() <= clock()


def test_processes_are_told_their_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    on_cpu, on_gpu = (learner_environment(LearnerConfig(), on_gpu=on_gpu) for on_gpu in (False, True))
    assert (on_cpu["DS_ACCELERATOR"], on_gpu["DS_ACCELERATOR"]) == ("cpu", "cuda")
    assert "PYTORCH_ALLOC_CONF" not in on_cpu
    assert on_gpu["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:64")
    assert learner_environment(LearnerConfig(), on_gpu=True)["PYTORCH_ALLOC_CONF"] == "max_split_size_mb:64"
    on_cpu, on_gpu = (engine_environment(RolloutConfig(), on_gpu=on_gpu) for on_gpu in (False, True))
    only = {"VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_OMP_THREADS_BIND", "TORCHDYNAMO_DISABLE"}
    assert on_cpu.keys() - on_gpu.keys() == only


def test_an_engine_on_gpus_is_split_over_them_and_compiled() -> None:
    config = RolloutConfig(tensor_parallel_size=4, gpu_memory_utilization=0.7)
    settings = device_settings(config, on_gpu=True)
    assert (settings["tensor_parallel_size"], settings["gpu_memory_utilization"]) == (4, 0.7)
    assert settings["distributed_executor_backend"] == "mp"
    assert "enforce_eager" not in settings
    assert device_settings(RolloutConfig(), on_gpu=True)["distributed_executor_backend"] == "uni"
    assert device_settings(RolloutConfig(), on_gpu=False)["enforce_eager"]


def test_vllm_knows_every_setting_of_an_engine() -> None:
    from vllm import EngineArgs
    from vllm.utils.import_utils import resolve_obj_by_qualname

    for on_gpu in (False, True):
        settings = device_settings(RolloutConfig(), on_gpu=on_gpu)
        EngineArgs(model="here", **settings)
    extension = resolve_obj_by_qualname(settings["worker_extension_cls"])
    assert not [name for name in dir(extension) if not name.startswith("__")]  # nothing that a worker has already


def test_gpus_need_builds_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    check_build(num_gpus=8)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(ConfigError, match=r"cluster.num_gpus=8, and torch .* is built for CPUs.*num_gpus=0"):
        check_build(num_gpus=8)


@pytest.mark.parametrize(("build", "refused"), [("0.32.0", True), ("0.32.0+cpu", False)])
def test_cpus_need_builds_for_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, build: str, refused: bool) -> None:
    (tmp_path / "vllm-0.dist-info").mkdir()
    (tmp_path / "vllm-0.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {build}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"num_gpus=0, and vLLM 0.32.0 is built") if refused else nullcontext():
        check_build(num_gpus=0)


def test_nccl_needs_gpus() -> None:
    rollout = RolloutConfig(weight_transfer=WeightTransfer.nccl)
    TrainConfig(rollout=rollout, cluster=ClusterConfig(num_gpus=2))
    with pytest.raises(ConfigError, match=r"rollout\.weight_transfer=nccl without GPUs: expected gloo"):
        TrainConfig(rollout=rollout)


def test_copies_of_what_is_in_host_memory_are_new_each_time() -> None:
    copies, source = HostCopies(), torch.arange(4.0)
    first = copies.begin("a", source)
    second = copies.begin("a", source.add_(1))
    copies.finish()
    assert (first.tolist(), second.tolist()) == ([0, 1, 2, 3], [1, 2, 3, 4])
