"""Plans and configurations of the tests, whole enough to be sent."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from launch.submit.kuberay.config import (
    Kind,
    KubeRayConfig,
    QueueConfig,
    Scheduler,
    SecretConfig,
    SubmissionMode,
    TolerationConfig,
    VolumeConfig,
)
from launch.submit.kuberay.manifest import build
from launch.submit.plan import NodeShare, Plan, Resources, Restarts
from tests.conftest import ROOT

CRDS = Path(os.environ.get("DELTA_KUBERAY_CRDS", ROOT.parent / "shared" / "kuberay_crds"))
"""KubeRay's definitions, where the shared folder is beside the checkout."""


def make_plan(*, nodes: int = 1, gpus: int = 0, **changes: Any) -> Plan:
    """A run on `nodes` nodes, each with as many ranks and engines as GPUs, or two ranks and an engine."""
    ranks = gpus or 2
    plan = Plan(
        name="first-run",
        run_dir=Path("/runs/first"),
        command=("delta-train", "run_dir=/runs/first", f"nodes={nodes}", "cluster=kuberay", "data.mix=[a b, 'c']"),
        resources=Resources(
            nodes=nodes, cpus=8 * ranks, gpus=gpus, memory_mib=65536 * ranks, object_store_mib=8192 * ranks
        ),
        placement=tuple(
            NodeShare(learner_ranks=tuple(range(node * ranks, node * ranks + ranks)), engines=(node,))
            for node in range(nodes)
        ),
        environment={"DELTA_CACHE": "/runs/.delta-cache", "NCCL_DEBUG": "WARN"},
        image="registry.example:5000/team/delta:1.0",
        restarts=Restarts(requeue=True, max_requeues=20, grace_s=120.0),
        ready_timeout_s=600.0,
    )
    return replace(plan, **changes)


def make_config(**changes: Any) -> KubeRayConfig:
    """Runs on a claim, two secrets, no queue."""
    settings: dict[str, Any] = {
        "namespace": "research",
        "ray_version": "2.60.0",
        "volumes": [VolumeConfig(claim="runs", path="/runs")],
        "secrets": [
            SecretConfig(env="WANDB_API_KEY", secret="wandb", key="api-key"),
            SecretConfig(env="HF_TOKEN", secret="hugging-face", key="token"),
        ],
    }
    return KubeRayConfig(**{**settings, **changes})


GPU_NODES: dict[str, Any] = {
    "node_selector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
    "tolerations": [TolerationConfig(key="nvidia.com/gpu", effect="NoSchedule")],
    "image_pull_secrets": ["registry"],
    "service_account": "trainer",
}

GOLDEN: dict[str, tuple[Plan, KubeRayConfig]] = {
    "job_cpu": (make_plan(), make_config()),
    "job_kueue": (
        make_plan(nodes=4, gpus=8),
        make_config(
            queue=QueueConfig(
                scheduler=Scheduler.kueue, name="team", priority_class="low", topology="example.com/rack"
            ),
            volumes=[
                VolumeConfig(claim="shared", path="/runs", sub_path="team/runs"),
                VolumeConfig(claim="shared", path="/models", sub_path="models", read_only=True),
            ],
            deadline_s=86400,
            labels={"team": "rl"},
            annotations={"example.com/budget": "a long word, with spaces"},
            **GPU_NODES,
        ),
    ),
    "job_volcano": (
        make_plan(nodes=2, gpus=8),
        make_config(
            queue=QueueConfig(scheduler=Scheduler.volcano, name="team", priority_class="low", topology="2"),
            submission_mode=SubmissionMode.SidecarMode,
            **GPU_NODES,
        ),
    ),
    "job_kai": (
        make_plan(nodes=2, gpus=8),
        make_config(queue=QueueConfig(scheduler=Scheduler.kai, name="team", priority_class="train"), **GPU_NODES),
    ),
    "cluster_interactive": (
        make_plan(nodes=2, gpus=1),
        make_config(kind=Kind.cluster, queue=QueueConfig(scheduler=Scheduler.yunikorn, name="root.research")),
    ),
}


def job_manifest(**changes: Any) -> dict[str, Any]:
    """A RayJob with everything in it, to be spoiled."""
    plan, config = GOLDEN["job_kueue"]
    return build(plan, replace(config, **changes) if changes else config)
