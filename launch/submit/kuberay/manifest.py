"""A plan as a RayJob or RayCluster, the way the operator wants it: plain data, and the same as readable YAML.

The head takes part in the work as node 0, so that a run on one node is one pod; the other nodes are one group of
workers of a fixed size. Every pod is told what it has instead of guessing, because Ray sees the machine and not the
pod. Secrets are referred to by name; the token of the cluster is made when the job is submitted (`backend`).
"""

import math
import re
import shlex
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from launch.submit.kuberay.config import Kind, KubeRayConfig, Scheduler, SubmissionMode, VolumeConfig
from launch.submit.plan import Plan

Manifest = dict[str, Any]
"""What the API server takes: the data of a YAML document."""

GROUP, VERSION = "ray.io", "v1"
PLURALS = {"RayJob": "rayjobs", "RayCluster": "rayclusters"}
INSTANCE = "app.kubernetes.io/instance"
TOKEN_KEY = "auth_token"
"""Where the operator looks in the Secret of `authOptions`."""
SHM_BEYOND_OBJECTS_MIB = 1024
MIB = 2**20


def token_secret(kind: str, name: str) -> str:
    """Name of the Secret with the token of the Ray of a RayJob or RayCluster, which may have the same name."""
    return f"{name}-{kind.lower()}-token"


def volume_of(path: Path | str, config: KubeRayConfig) -> VolumeConfig | None:
    """The volume that a path of the pods is on, the innermost of several."""
    holding = [volume for volume in config.volumes if PurePosixPath(path).is_relative_to(volume.path)]
    return max(holding, key=lambda volume: len(PurePosixPath(volume.path).parts), default=None)


def shm_mib(plan: Plan, config: KubeRayConfig) -> int:
    """What /dev/shm of a pod holds."""
    return config.shm_mib or plan.resources.object_store_mib + SHM_BEYOND_OBJECTS_MIB


def _leaving_s(plan: Plan, config: KubeRayConfig) -> int:
    """Seconds between the word of the end and the kill."""
    return math.ceil(plan.restarts.grace_s) + config.grace_margin_s


def build(plan: Plan, config: KubeRayConfig) -> Manifest:
    """The RayJob or RayCluster of a plan; keys are in the order in which they are read."""
    name = plan.name
    labels = {INSTANCE: name, **_queue_labels(name, config), **config.labels}
    metadata: Manifest = {"name": name, "namespace": config.namespace, "labels": labels}
    if config.annotations:
        metadata["annotations"] = dict(config.annotations)
    cluster = _cluster(plan, config, name)
    spec = _job(plan, config, cluster) if config.kind is Kind.job else cluster
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": _kind(config), "metadata": metadata, "spec": spec}


def to_yaml(manifest: Manifest, plan: Plan) -> str:
    """Text for people and for kubectl; the same plan gives the same text."""
    shares = [
        f"#   node {number} ({'head' if number == 0 else 'worker'}): learner ranks {_listed(share.learner_ranks)},"
        f" engines {_listed(share.engines)}"
        for number, share in enumerate(plan.placement)
    ]
    start = f"# On the head, to start it: {shlex.join(plan.command)}\n" if manifest["kind"] == "RayCluster" else ""
    heading = f"# {plan.name}, rendered by delta-submit\n" + "".join(f"{line}\n" for line in shares) + start
    return heading + yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)


def _kind(config: KubeRayConfig) -> str:
    return "RayJob" if config.kind is Kind.job else "RayCluster"


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers)) or "none"


class _Dumper(yaml.SafeDumper):
    """Block style, lists indented under their key, and no anchors for data that is met twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _job(plan: Plan, config: KubeRayConfig, cluster: Manifest) -> Manifest:
    supervised = ("python", "-m", "launch.submit.kuberay.attempt", str(plan.job_dir), "--", *plan.command)
    spec: Manifest = {
        # A shell reads it, in every mode once.
        "entrypoint": shlex.join(supervised),
        "submissionMode": config.submission_mode.name,
        # A preempted run ends in failure (exit code 75), and the operator makes everything anew.
        "backoffLimit": plan.restarts.max_requeues if plan.restarts.requeue else 0,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": config.ttl_s,
    }
    if config.deadline_s:
        spec["activeDeadlineSeconds"] = config.deadline_s
    return {**spec, "rayClusterSpec": cluster}


def _cluster(plan: Plan, config: KubeRayConfig, name: str) -> Manifest:
    workers = plan.resources.nodes - 1
    spec: Manifest = {
        "rayVersion": config.ray_version or version("ray"),
        "enableInTreeAutoscaling": False,
        "authOptions": {"mode": "token", "secretName": token_secret(_kind(config), name)},
        "headGroupSpec": {
            "rayStartParams": {"dashboard-host": "0.0.0.0", **_start_params(plan, config)},
            "template": _template(plan, config, name, head=True),
        },
    }
    if workers:
        spec["workerGroupSpecs"] = [
            {
                "groupName": "workers",
                "replicas": workers,
                "minReplicas": workers,
                "maxReplicas": workers,
                "rayStartParams": _start_params(plan, config),
                "template": _template(plan, config, name, head=False),
            }
        ]
    return spec


def _start_params(plan: Plan, config: KubeRayConfig) -> dict[str, str]:
    """Arguments of `ray start`; all of them are strings, or the API server refuses them."""
    has = plan.resources
    params = {"num-cpus": str(has.cpus), "num-gpus": str(has.gpus)}
    if has.memory_mib:
        params["memory"] = str((has.memory_mib - shm_mib(plan, config)) * MIB)
    return {**params, "object-store-memory": str(has.object_store_mib * MIB)}


def _template(plan: Plan, config: KubeRayConfig, name: str, *, head: bool) -> Manifest:
    metadata: Manifest = {"labels": {INSTANCE: name, **config.labels}}
    annotations = dict(config.annotations)
    if config.queue.scheduler is Scheduler.kueue and config.queue.topology:
        annotations["kueue.x-k8s.io/podset-required-topology"] = config.queue.topology
    if annotations:
        metadata["annotations"] = annotations
    pod: Manifest = {}
    if head and config.kind is Kind.job and config.submission_mode is SubmissionMode.SidecarMode:
        pod["restartPolicy"] = "Never"
    if config.kind is Kind.job:
        pod["terminationGracePeriodSeconds"] = _leaving_s(plan, config)
    if config.service_account:
        pod["serviceAccountName"] = config.service_account
    if config.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": secret} for secret in config.image_pull_secrets]
    if config.queue.priority_class and config.queue.scheduler not in (Scheduler.kueue, Scheduler.volcano):
        pod["priorityClassName"] = config.queue.priority_class
    if config.node_selector:
        pod["nodeSelector"] = dict(config.node_selector)
    if config.tolerations:
        pod["tolerations"] = [
            {key: value for key in ("key", "operator", "value", "effect") if (value := getattr(toleration, key))}
            for toleration in config.tolerations
        ]
    claims = list(dict.fromkeys(volume.claim for volume in config.volumes))
    pod["containers"] = [_container(plan, config, claims, head=head)]
    pod["volumes"] = [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{shm_mib(plan, config)}Mi"}},
        *(
            {"name": f"volume-{number}", "persistentVolumeClaim": {"claimName": claim}}
            for number, claim in enumerate(claims)
        ),
    ]
    return {"metadata": metadata, "spec": pod}


def _container(plan: Plan, config: KubeRayConfig, claims: list[str], *, head: bool) -> Manifest:
    has = plan.resources
    resources = {"cpu": str(has.cpus)}
    if has.memory_mib:
        resources["memory"] = f"{has.memory_mib}Mi"
    if has.gpus:
        resources[config.gpu_resource] = str(has.gpus)
    container: Manifest = {
        "name": "ray-head" if head else "ray-worker",
        "image": plan.image,
        "imagePullPolicy": config.image_pull_policy.name,
        # What is asked for is what there is: pods that may grow are the first to be evicted.
        "resources": {"requests": resources, "limits": dict(resources)},
        "env": _environment(plan, config, head=head),
    }
    if head:
        ports = {"gcs-server": 6379, "dashboard": 8265, "client": 10001}
        container["ports"] = [{"name": name, "containerPort": port} for name, port in ports.items()]
    if config.kind is Kind.job:
        container["lifecycle"] = {"preStop": {"exec": {"command": ["/bin/sh", "-c", _pre_stop(plan)]}}}
    container["volumeMounts"] = [
        {"name": "shm", "mountPath": "/dev/shm"},
        *(
            {
                "name": f"volume-{claims.index(volume.claim)}",
                "mountPath": volume.path,
                **({"subPath": volume.sub_path} if volume.sub_path else {}),
                **({"readOnly": True} if volume.read_only else {}),
            }
            for volume in config.volumes
        ),
    ]
    return container


def _environment(plan: Plan, config: KubeRayConfig, *, head: bool) -> list[Manifest]:
    plain = dict(plan.environment)
    if head and config.kind is Kind.job:
        # How long Ray waits for a driver that was told to end; otherwise 3 seconds, too few for a checkpoint.
        plain["RAY_JOB_STOP_WAIT_TIME_S"] = str(_leaving_s(plan, config))
    return [
        *({"name": name, "value": value} for name, value in sorted(plain.items())),
        *(
            {"name": secret.env, "valueFrom": {"secretKeyRef": {"name": secret.secret, "key": secret.key}}}
            for secret in config.secrets
        ),
    ]


def _pre_stop(plan: Plan) -> str:
    """What a pod does before it is ended: ask for a checkpoint and wait for it (`attempt` answers).

    SIGTERM alone would reach the shell around `ray start`, which does not pass it on to anybody.
    """
    folder = shlex.quote(str(plan.job_dir))
    running, end = (f'{folder}/{mark}-"$RAY_CLUSTER_NAME"' for mark in ("running", "end"))
    return f"if [ -e {running} ]; then touch {end}; while [ -e {running} ]; do sleep 1; done; fi"


def _queue_labels(name: str, config: KubeRayConfig) -> dict[str, str]:
    """What the queueing system wants to read on the object; the operator copies it to what it makes."""
    queue = config.queue
    match queue.scheduler:
        case Scheduler.kueue:
            labels = {"kueue.x-k8s.io/queue-name": queue.name, "kueue.x-k8s.io/priority-class": queue.priority_class}
        case Scheduler.volcano:
            labels = {
                "ray.io/scheduler-name": "volcano",
                "volcano.sh/queue-name": queue.name,
                "ray.io/priority-class-name": queue.priority_class,
                "volcano.sh/network-topology-mode": "hard" if queue.topology else "",
                "volcano.sh/network-topology-highest-tier-allowed": queue.topology,
            }
        case Scheduler.kai:
            labels = {"ray.io/scheduler-name": "kai-scheduler", "kai.scheduler/queue": queue.name}
        case Scheduler.yunikorn:
            labels = {
                "ray.io/scheduler-name": "yunikorn",
                "yunikorn.apache.org/app-id": name,
                "yunikorn.apache.org/queue": queue.name,
                "ray.io/gang-scheduling-enabled": "true",
            }
        case Scheduler.none:
            labels = {}
    return {key: value for key, value in labels.items() if value}


def is_image(text: str) -> bool:
    """Whether this is the name of a container image: `[registry[:port]/]path[:tag][@sha256:digest]`."""
    part = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
    host = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?(?::[0-9]+)?/)?"
    return bool(
        re.fullmatch(
            rf"{host}{part}(?:/{part})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?", text
        )
    )
