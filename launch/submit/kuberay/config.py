"""What is said about a run to Kubernetes."""

import re
from dataclasses import dataclass, field
from enum import Enum
from pathlib import PurePosixPath
from typing import ClassVar

from launch.submit.config import SubmittedConfig

ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
TO_THE_PODS = {"RAY_AUTH_TOKEN", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"}
"""Variables that the operator or the manifest sets."""


class Kind(Enum):
    """What is created."""

    job = "job"
    """A RayJob: a cluster for this run, which ends with it and is made again when the run was preempted."""
    cluster = "cluster"
    """A RayCluster for interactive work: nothing is started on it, and it stays until it is deleted."""


class Scheduler(Enum):
    """Who decides when the pods start, and that all of them do or none."""

    none = "none"
    kueue = "kueue"
    volcano = "volcano"
    kai = "kai"
    yunikorn = "yunikorn"


class SubmissionMode(Enum):
    """How the operator hands the command to Ray (docs/kubernetes.md compares them)."""

    HTTPMode = "HTTPMode"
    """The operator asks Ray's job server itself: no pod beside those of the run."""
    K8sJobMode = "K8sJobMode"
    """A pod of its own submits the command and shows its output; gangs must have room for it."""
    SidecarMode = "SidecarMode"
    """The same in a container beside the head."""


class PullPolicy(Enum):
    """When the image is pulled."""

    IfNotPresent = "IfNotPresent"
    Always = "Always"
    Never = "Never"


@dataclass(kw_only=True, slots=True)
class TolerationConfig:
    """A taint of nodes that the pods put up with."""

    key: str = ""
    """Empty with `operator=Exists` is every taint."""
    operator: str = "Exists"
    """`Exists`, or `Equal` with a value."""
    value: str = ""
    effect: str = ""
    """`NoSchedule`, `PreferNoSchedule` or `NoExecute`; empty is all of them."""

    def __post_init__(self) -> None:
        """Check what Kubernetes would refuse."""
        if self.operator not in ("Exists", "Equal"):
            raise ValueError(f"cluster.tolerations: operator={self.operator!r}; expected Exists or Equal.")
        if self.operator == "Exists" and self.value:
            raise ValueError(
                f"cluster.tolerations: {self.key} has operator=Exists and value={self.value!r}; use operator=Equal."
            )
        if self.effect not in ("", "NoSchedule", "PreferNoSchedule", "NoExecute"):
            raise ValueError(
                f"cluster.tolerations: effect={self.effect!r}; expected NoSchedule, PreferNoSchedule, NoExecute or ''."
            )


@dataclass(kw_only=True, slots=True)
class VolumeConfig:
    """A folder of all pods. What holds runs must be a file system with rename, seen alike by every pod."""

    claim: str
    """Name of the PersistentVolumeClaim; with several nodes its access mode has to be ReadWriteMany."""
    path: str
    """Absolute path in the pods."""
    sub_path: str = ""
    """Folder of the volume that is mounted; empty is the whole."""
    read_only: bool = False

    def __post_init__(self) -> None:
        """Check the paths."""
        if not PurePosixPath(self.path).is_absolute() or self.path == "/":
            raise ValueError(f"cluster.volumes: path={self.path!r} of {self.claim}; expected an absolute path below /.")
        if PurePosixPath(self.sub_path).is_absolute() or ".." in PurePosixPath(self.sub_path).parts:
            raise ValueError(f"cluster.volumes: sub_path={self.sub_path!r}; expected a relative path without '..'.")


@dataclass(kw_only=True, slots=True)
class SecretConfig:
    """An environment variable whose value is in a Secret of the namespace; the value is seen by nobody here."""

    env: str
    """Name of the variable, such as WANDB_API_KEY or HF_TOKEN."""
    secret: str
    """Name of the Secret."""
    key: str
    """Key in it."""

    def __post_init__(self) -> None:
        """Check the names."""
        if not ENVIRONMENT_NAME.fullmatch(self.env):
            raise ValueError(f"cluster.secrets: env={self.env!r}; expected a name such as WANDB_API_KEY.")
        if self.env in TO_THE_PODS:
            raise ValueError(f"cluster.secrets: {self.env} is set by the submission; remove it.")
        if not self.secret or not self.key:
            raise ValueError(f"cluster.secrets: {self.env} has secret={self.secret!r}, key={self.key!r}; give both.")


@dataclass(kw_only=True, slots=True)
class QueueConfig:
    """Where the job waits for its turn."""

    scheduler: Scheduler = Scheduler.none
    name: str = ""
    """Kueue: LocalQueue of the namespace; Volcano, KAI: Queue of the cluster; YuniKorn: path such as root.research."""
    priority_class: str = ""
    """Kueue: WorkloadPriorityClass; the others: PriorityClass."""
    topology: str = ""
    """Keeps the pods close to each other. Kueue: node label that all of them must share; Volcano: the highest tier of
    HyperNodes, a number."""

    def __post_init__(self) -> None:
        """A queue needs somebody who looks after it."""
        if self.scheduler is Scheduler.none and (self.name or self.topology):
            raise ValueError(
                f"cluster.queue.name={self.name!r}, cluster.queue.topology={self.topology!r}, but "
                "cluster.queue.scheduler=none; expected kueue, volcano, kai or yunikorn."
            )
        if self.scheduler is not Scheduler.none and not self.name:
            raise ValueError(
                f"cluster.queue.scheduler={self.scheduler.name} without cluster.queue.name; name the queue."
            )
        if self.topology and self.scheduler not in (Scheduler.kueue, Scheduler.volcano):
            raise ValueError(f"cluster.queue.topology is for kueue and volcano, not for {self.scheduler.name}.")
        if self.scheduler is Scheduler.volcano and self.topology and not self.topology.isdecimal():
            raise ValueError(f"cluster.queue.topology={self.topology!r}; for volcano expected a tier such as 2.")


@dataclass(kw_only=True, slots=True)
class KubeRayConfig(SubmittedConfig):
    """A Kubernetes cluster with the KubeRay operator (`cluster=kuberay`).

    `max_requeues` is the RayJob's backoffLimit. What Kueue preempts goes back into its queue and is not counted.
    """

    kind_of_cluster: ClassVar[str] = "kuberay"
    namespace: str = "default"
    context: str = ""
    """Context of the kubeconfig; empty is the current one, or the service account's where this runs in a pod."""
    kind: Kind = Kind.job
    image_pull_policy: PullPolicy = PullPolicy.IfNotPresent
    image_pull_secrets: list[str] = field(default_factory=list)
    service_account: str = ""
    ray_version: str = ""
    """Ray of the image; empty is the version that is installed here. The operator wants to know it."""
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: list[TolerationConfig] = field(default_factory=list)
    gpu_resource: str = "nvidia.com/gpu"
    """What the device plugin calls a GPU."""
    shm_mib: int = 0
    """/dev/shm of a pod, a part of its memory; 0 is the object store and a GiB for NCCL and torch."""
    volumes: list[VolumeConfig] = field(default_factory=list)
    image_paths: list[str] = field(default_factory=list)
    """Folders that the image brings along; other paths of the command must be on a volume."""
    secrets: list[SecretConfig] = field(default_factory=list)
    queue: QueueConfig = field(default_factory=QueueConfig)
    submission_mode: SubmissionMode = SubmissionMode.HTTPMode
    ttl_s: int = 300
    """How long the pods of a finished job are kept, to look at."""
    deadline_s: int = 0
    """Seconds after which the operator ends the job for good; 0 is never."""
    grace_margin_s: int = 30
    """What pods are given beyond `grace_s` between the word of the end and the kill."""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    crds: str = ""
    """Folder with KubeRay's CRDs (ray.io_rayjobs.yaml, ray.io_rayclusters.yaml), to check against without a cluster."""
    request_timeout_s: float = 30.0
    """How long the API server may take for an answer."""

    def __post_init__(self) -> None:
        """Check the ranges, and names that meet."""
        SubmittedConfig.__post_init__(self)
        if min(self.shm_mib, self.ttl_s, self.deadline_s, self.grace_margin_s) < 0 or self.request_timeout_s <= 0:
            raise ValueError(
                f"cluster.shm_mib={self.shm_mib}, ttl_s={self.ttl_s}, deadline_s={self.deadline_s}, "
                f"grace_margin_s={self.grace_margin_s}: expected 0 or more; request_timeout_s="
                f"{self.request_timeout_s}: expected more than 0."
            )
        paths = [volume.path for volume in self.volumes]
        if twice := {path for path in paths if paths.count(path) > 1}:
            raise ValueError(f"cluster.volumes: {', '.join(sorted(twice))} is mounted twice; give each its own path.")
        names = [secret.env for secret in self.secrets] + list(self.environment)
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"{', '.join(sorted(twice))}: set by cluster.secrets and again; keep one of them.")
        if reserved := TO_THE_PODS & self.environment.keys():
            raise ValueError(f"cluster.environment: {', '.join(sorted(reserved))} is set by the submission; remove it.")
