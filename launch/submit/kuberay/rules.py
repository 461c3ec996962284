"""What the operator and Kubernetes demand of a RayJob or RayCluster and no schema says, in our words.

The operator checks most of this only after the object was accepted, and then leaves it lying with an event that
nobody reads. Every rule looks at one document and yields sentences: what was seen, what was expected, what to do.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

from launch.submit.config import SECRET
from launch.submit.kuberay.manifest import Manifest, is_image

LONGEST_NAME = {"RayJob": 47, "RayCluster": 53}
"""The operator makes longer names of it, for services and clusters."""
MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
MANAGERS = ("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue")
FIRST_WITH_TOKENS = (2, 52)
KUEUE_QUEUE = "kueue.x-k8s.io/queue-name"
KUEUE_GROUPS = 7
"""Kueue admits eight sets of pods at once, one of which is the head."""
LABEL_NAME = re.compile(r"(?:[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
QUANTITY = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:[mkMGTPE]|[KMGTPE]i)?")

Rule = Callable[[Manifest], Iterator[str]]


def problems(manifest: Manifest) -> list[str]:
    """Everything that the rules find."""
    return [problem for rule in RULES for problem in rule(manifest)]


def _spec(manifest: Manifest) -> Manifest:
    return manifest.get("spec") or {}


def _job(manifest: Manifest) -> Manifest:
    """The fields that only a RayJob has; empty for a RayCluster."""
    return _spec(manifest) if manifest.get("kind") == "RayJob" else {}


def _cluster(manifest: Manifest) -> tuple[str, Manifest]:
    """Where the cluster is described, and how."""
    if manifest.get("kind") == "RayJob" or "rayClusterSpec" in _spec(manifest):
        return "spec.rayClusterSpec", _spec(manifest).get("rayClusterSpec") or {}
    return "spec", _spec(manifest)


def _groups(manifest: Manifest) -> Iterator[tuple[str, Manifest]]:
    """The head and the groups of workers, each with its place."""
    place, cluster = _cluster(manifest)
    if "headGroupSpec" in cluster:
        yield f"{place}.headGroupSpec", cluster["headGroupSpec"] or {}
    for number, group in enumerate(cluster.get("workerGroupSpecs") or []):
        yield f"{place}.workerGroupSpecs[{number}]", group


def _pods(manifest: Manifest) -> Iterator[tuple[str, Manifest]]:
    for place, group in _groups(manifest):
        yield f"{place}.template.spec", (group.get("template") or {}).get("spec") or {}


def _containers(manifest: Manifest) -> Iterator[tuple[str, Manifest]]:
    for place, pod in _pods(manifest):
        for number, container in enumerate(pod.get("containers") or []):
            yield f"{place}.containers[{number}]", container


def _less(value: Any, least: int) -> bool:
    return isinstance(value, int) and value < least


def _kind_and_name(manifest: Manifest) -> Iterator[str]:
    kind, name = manifest.get("kind"), (manifest.get("metadata") or {}).get("name") or ""
    if kind not in LONGEST_NAME or manifest.get("apiVersion") != "ray.io/v1":
        yield f"apiVersion={manifest.get('apiVersion')}, kind={kind}; expected ray.io/v1 and RayJob or RayCluster."
        return
    if not re.fullmatch(r"[a-z](?:[a-z0-9-]*[a-z0-9])?", name):
        yield (
            f"metadata.name={name!r}; expected lower-case letters, digits and hyphens, a letter first, no hyphen last."
        )
    if len(name) > LONGEST_NAME[kind]:
        yield f"metadata.name={name!r} has {len(name)} characters; a {kind} may have {LONGEST_NAME[kind]}. Shorten it."


def _labels(manifest: Manifest) -> Iterator[str]:
    places = [("metadata", manifest.get("metadata") or {})]
    places += [(f"{place}.template.metadata", (group.get("template") or {}).get("metadata") or {})
               for place, group in _groups(manifest)]  # fmt: skip
    for place, metadata in places:
        for key in [*(metadata.get("labels") or {}), *(metadata.get("annotations") or {})]:
            if not LABEL_NAME.fullmatch(key):
                yield f"{place}: {key!r} is no name of a label; expected [prefix/]name, letters, digits, '-', '_', '.'."
        for key, value in (metadata.get("labels") or {}).items():
            if not isinstance(value, str) or not LABEL_VALUE.fullmatch(value):
                yield (
                    f"{place}.labels: {key}={value!r}; expected a string of at most 63 letters, digits, '-', '_' and "
                    "'.', the first and last a letter or digit. What does not fit can be an annotation."
                )


def _submission(manifest: Manifest) -> Iterator[str]:
    job = _job(manifest)
    if not job:
        return
    mode = job.get("submissionMode", "K8sJobMode")
    if mode not in MODES:
        yield f"spec.submissionMode={mode!r}; expected {', '.join(MODES)}, spelled exactly so."
    if mode != "InteractiveMode" and not str(job.get("entrypoint") or "").strip():
        yield f"spec.entrypoint is empty, and nobody will submit a job in {mode}; say what is to be run."
    if mode == "SidecarMode":
        for key in ("submitterPodTemplate", "submitterConfig", "clusterSelector"):
            if job.get(key):
                yield f"spec.{key} with submissionMode=SidecarMode; remove it, or use K8sJobMode."
        policy = next((pod.get("restartPolicy") for _, pod in _pods(manifest)), None)
        if policy not in (None, "", "Never"):
            yield f"restartPolicy={policy} of the head with submissionMode=SidecarMode; expected Never."


def _which_cluster(manifest: Manifest) -> Iterator[str]:
    job = _job(manifest)
    if not job:
        return
    new, existing = bool(job.get("rayClusterSpec")), bool(job.get("clusterSelector"))
    if new is existing:
        seen = "both" if new else "neither of"
        yield f"spec has {seen} rayClusterSpec and clusterSelector; expected exactly one of them."


def _suspension(manifest: Manifest) -> Iterator[str]:
    job = _job(manifest)
    if job.get("suspend") and not job.get("shutdownAfterJobFinishes"):
        yield "spec.suspend without shutdownAfterJobFinishes: a suspended job gives its pods back; set both to true."
    if job.get("suspend") and job.get("clusterSelector"):
        yield "spec.suspend with clusterSelector: a cluster that is not the job's cannot be suspended; remove one."


def _limits(manifest: Manifest) -> Iterator[str]:
    job = _job(manifest)
    backoff, ttl = job.get("backoffLimit"), job.get("ttlSecondsAfterFinished")
    if _less(backoff, 0):
        yield f"spec.backoffLimit={backoff}; expected 0 or more (cluster.max_requeues)."
    if backoff and job.get("clusterSelector"):
        yield "spec.backoffLimit with clusterSelector: only a cluster of the job's own is made again; set it to 0."
    if backoff and job.get("submissionMode") == "InteractiveMode":
        yield "spec.backoffLimit with submissionMode=InteractiveMode: there is no command to repeat; set it to 0."
    if _less(ttl, 0):
        yield f"spec.ttlSecondsAfterFinished={ttl}; expected 0 or more (cluster.ttl_s)."
    if ttl and not job.get("shutdownAfterJobFinishes"):
        yield "spec.ttlSecondsAfterFinished without shutdownAfterJobFinishes: nothing would happen then; set it."
    for key in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if _less(job.get(key), 1):
            yield f"spec.{key}={job[key]}; expected 1 or more, or leave it out for no deadline."


def _managed(manifest: Manifest) -> Iterator[str]:
    manager = _spec(manifest).get("managedBy", MANAGERS[0])
    if manager not in MANAGERS:
        yield f"spec.managedBy={manager!r}; expected {' or '.join(MANAGERS)}."


def _token(manifest: Manifest) -> Iterator[str]:
    place, cluster = _cluster(manifest)
    if (cluster.get("authOptions") or {}).get("mode") != "token":
        if cluster:
            yield f"{place}.authOptions.mode is not token: whoever reaches the pods could run programs there; set it."
        return
    seen = str(cluster.get("rayVersion") or "")
    found = re.match(r"(\d+)\.(\d+)", seen)
    if not found or (int(found[1]), int(found[2])) < FIRST_WITH_TOKENS:
        yield f"{place}.rayVersion={seen!r} with authOptions.mode=token; expected 2.52 or newer (cluster.ray_version)."


def _replicas(manifest: Manifest) -> Iterator[str]:
    autoscaling = _cluster(manifest)[1].get("enableInTreeAutoscaling")
    for place, group in list(_groups(manifest))[1:]:
        least, most, now = (group.get(key) for key in ("minReplicas", "maxReplicas", "replicas"))
        if least is None or most is None:
            yield f"{place}: minReplicas={least}, maxReplicas={most}; expected both (autoscaling={bool(autoscaling)})."
        elif isinstance(least, int) and isinstance(most, int):
            if not 0 <= least <= most:
                yield f"{place}: minReplicas={least}, maxReplicas={most}; expected 0 <= minReplicas <= maxReplicas."
            elif isinstance(now, int) and not least <= now <= most:
                yield f"{place}: replicas={now}; expected {least} to {most}."
        if not group.get("groupName"):
            yield f"{place}.groupName is missing; expected a name of its own for every group."


def _start_params(manifest: Manifest) -> Iterator[str]:
    for place, group in _groups(manifest):
        params = group.get("rayStartParams") or {}
        for key, value in params.items():
            if not isinstance(value, str):
                yield f"{place}.rayStartParams.{key}={value!r}; expected a string: write '{value}' in quotes."
        twice = [key for key in ("num-cpus", "num-gpus", "memory", "resources") if params.get(key)]
        if twice and group.get("resources"):
            yield f"{place} has resources and rayStartParams {', '.join(twice)}; keep one of the two."
        if "labels" in params:
            yield f"{place}.rayStartParams.labels; expected labels of the group ({place}.labels)."


def _pod_contents(manifest: Manifest) -> Iterator[str]:
    for place, pod in _pods(manifest):
        if not pod.get("containers"):
            yield f"{place}.containers is empty; expected Ray's container first."
        volumes = [volume.get("name") for volume in pod.get("volumes") or []]
        for number, container in enumerate(pod.get("containers") or []):
            mounts = container.get("volumeMounts") or []
            for mount in mounts:
                if mount.get("name") not in volumes:
                    yield (
                        f"{place}.containers[{number}] mounts volume {mount.get('name')}, which the pod has not; "
                        f"expected one of {', '.join(map(str, volumes)) or 'none'}."
                    )
            paths = [mount.get("mountPath") for mount in mounts]
            for path in sorted({path for path in paths if paths.count(path) > 1}):
                yield f"{place}.containers[{number}] mounts two volumes at {path}; give each a path of its own."
            if not is_image(str(container.get("image") or "")):
                yield (
                    f"{place}.containers[{number}].image={container.get('image')!r}; expected the name of an image, "
                    "such as registry.example/team/delta:1.0 (cluster.image)."
                )


def _quantities(manifest: Manifest) -> Iterator[str]:
    for place, container in _containers(manifest):
        resources = container.get("resources") or {}
        limits = resources.get("limits") or {}
        for part in ("requests", "limits"):
            for key, value in (resources.get(part) or {}).items():
                if not QUANTITY.fullmatch(str(value)):
                    yield f"{place}.resources.{part}.{key}={value!r}; expected a quantity such as 4, 500m or 16Gi."
        for key, value in (resources.get("requests") or {}).items():
            if "/" in key and str(limits.get(key)) != str(value):
                yield (
                    f"{place}.resources: requests {key}={value}, limits {limits.get(key)}; expected the same, since "
                    "devices are not shared."
                )


def _inline_secrets(manifest: Manifest) -> Iterator[str]:
    for place, container in _containers(manifest):
        for variable in container.get("env") or []:
            if variable.get("value") and SECRET.search(str(variable.get("name"))):
                yield (
                    f"{place}.env: {variable['name']} has its value in the manifest, where everybody reads it; put it "
                    "into a Secret and name that in cluster.secrets."
                )


def _kueue(manifest: Manifest) -> Iterator[str]:
    if KUEUE_QUEUE not in ((manifest.get("metadata") or {}).get("labels") or {}):
        return
    place, cluster = _cluster(manifest)
    job = _job(manifest)
    if job and not job.get("shutdownAfterJobFinishes"):
        yield f"{KUEUE_QUEUE} without spec.shutdownAfterJobFinishes; Kueue wants its quota back: set it to true."
    if job.get("clusterSelector"):
        yield f"{KUEUE_QUEUE} with spec.clusterSelector: the cluster has its pods already; queue the cluster instead."
    if cluster.get("enableInTreeAutoscaling"):
        yield f"{place}.enableInTreeAutoscaling with {KUEUE_QUEUE}: the quota is for a fixed size; set it to false."
    if (groups := len(cluster.get("workerGroupSpecs") or [])) > KUEUE_GROUPS:
        yield f"{place}.workerGroupSpecs has {groups} groups; Kueue takes {KUEUE_GROUPS}."


RULES: tuple[Rule, ...] = (
    _kind_and_name,
    _labels,
    _submission,
    _which_cluster,
    _suspension,
    _limits,
    _managed,
    _token,
    _replicas,
    _start_params,
    _pod_contents,
    _quantities,
    _inline_secrets,
    _kueue,
)
