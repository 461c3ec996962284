"""What a cluster is asked before a job is sent to it: everything that the job names has to be there.

A question returns warnings, and raises `ConfigError` for what cannot work. What this user may not ask stays unasked
(`NotAllowedError`); the job may work nevertheless.
"""

from collections.abc import Callable, Sequence

from kubernetes.utils.quantity import parse_quantity

from delta.errors import ConfigError, SubmissionError
from launch.submit.kuberay.api import Cluster, NotAllowedError, RefusedError, TakenError
from launch.submit.kuberay.config import KubeRayConfig, Scheduler
from launch.submit.kuberay.manifest import GROUP, PLURALS, VERSION, Manifest
from launch.submit.kuberay.schema import closed_schema
from launch.submit.kuberay.validate import check_manifest
from launch.submit.plan import Plan

Question = Callable[[Cluster, KubeRayConfig, Plan, Manifest], Sequence[str]]

QUEUES = {
    Scheduler.kueue: ("kueue.x-k8s.io", "localqueues"),
    Scheduler.volcano: ("scheduling.volcano.sh", "queues"),
    Scheduler.kai: ("scheduling.run.ai", "queues"),
}
"""API group and name of the objects that are queues; those of YuniKorn are lines of its own settings."""


def _namespace(cluster: Cluster, config: KubeRayConfig, plan: Plan, manifest: Manifest) -> Sequence[str]:
    name = config.namespace
    if cluster.ask(f"asking for namespace {name}", cluster.core.read_namespace, name) is None:
        raise ConfigError(
            f"cluster.namespace={name}: {cluster.host} has no such namespace. Create it, or name another."
        )
    return []


def _operator(cluster: Cluster, config: KubeRayConfig, plan: Plan, manifest: Manifest) -> Sequence[str]:
    kind = manifest["kind"]
    served = cluster.serves(GROUP, PLURALS[kind])
    if served is None:
        raise ConfigError(f"{cluster.host} does not know {kind} of {GROUP}. Have the KubeRay operator installed.")
    definition = cluster.definition(kind)
    if definition is None:
        raise ConfigError(f"{cluster.host} serves {GROUP}/{served}, expected {GROUP}/{VERSION}. Update KubeRay.")
    check_manifest(manifest, closed_schema(definition))
    return []


def _name(cluster: Cluster, config: KubeRayConfig, plan: Plan, manifest: Manifest) -> Sequence[str]:
    kind, name = manifest["kind"], manifest["metadata"]["name"]
    if cluster.ray(kind, name) is not None:
        raise ConfigError(taken(kind, name, config.namespace))
    return []


def taken(kind: str, name: str, namespace: str) -> str:
    """What to say about a name that another job has."""
    return (
        f"{kind} {name} exists already in namespace {namespace}: the name is made from run_dir. Choose another "
        f"one; or, if that job is over and the run should go on: kubectl -n {namespace} delete {kind.lower()} {name}"
    )


def _queue(cluster: Cluster, config: KubeRayConfig, plan: Plan, manifest: Manifest) -> Sequence[str]:
    queue = config.queue
    if queue.scheduler is Scheduler.none:
        return []
    if queue.scheduler is Scheduler.yunikorn:
        return [f"whether YuniKorn has the queue {queue.name} was not checked: its queues are in its own settings."]
    group, plural = QUEUES[queue.scheduler]
    version = cluster.serves(group, plural)
    if version is None:
        raise ConfigError(
            f"cluster.queue.scheduler={queue.scheduler.name}: {cluster.host} has no {plural} of {group}. Have it "
            "installed, or choose another scheduler."
        )
    what = f"asking for queue {queue.name}"
    where: tuple[str, ...] = (group, version, plural)
    get, listed = cluster.objects.get_cluster_custom_object, cluster.objects.list_cluster_custom_object
    if queue.scheduler is Scheduler.kueue:
        where = (group, version, config.namespace, plural)
        get, listed = cluster.objects.get_namespaced_custom_object, cluster.objects.list_namespaced_custom_object
    if cluster.ask(what, get, *where, queue.name) is None:
        answer = cluster.ask("asking which queues there are", listed, *where) or {"items": []}
        names = ", ".join(item["metadata"]["name"] for item in answer["items"]) or "none"
        raise ConfigError(
            f"cluster.queue.name={queue.name}: there is no such queue in {group}; expected one of: {names}."
        )
    if queue.scheduler is Scheduler.kueue:
        return []
    return [
        f"gang scheduling by {queue.scheduler.name} needs an operator with batchScheduler.name set; that was not "
        "checked."
    ]


def _claims(cluster: Cluster, config: KubeRayConfig, plan: Plan, manifest: Manifest) -> Sequence[str]:
    warnings = []
    for volume in config.volumes:
        read = cluster.core.read_namespaced_persistent_volume_claim
        claim = cluster.ask(f"asking for claim {volume.claim}", read, volume.claim, config.namespace)
        if claim is None:
            raise ConfigError(
                f"cluster.volumes: namespace {config.namespace} has no PersistentVolumeClaim {volume.claim}. Create "
                "it, or name another."
            )
        modes = claim.spec.access_modes or []
        shared = {"ReadWriteMany", "ReadOnlyMany"} if volume.read_only else {"ReadWriteMany"}
        if plan.resources.nodes > 1 and not shared & set(modes):
            raise ConfigError(
                f"cluster.volumes: claim {volume.claim} is {', '.join(modes)}, and {plan.resources.nodes} pods use it; "
                "expected ReadWriteMany."
            )
        if claim.status is not None and claim.status.phase == "Lost":
            raise ConfigError(f"cluster.volumes: claim {volume.claim} has lost its volume; have it mended.")
        if claim.status is None or claim.status.phase != "Bound":
            warnings.append(f"claim {volume.claim} is not bound yet; pods wait until it is.")
    return warnings


def _secrets(cluster: Cluster, config: KubeRayConfig, plan: Plan, manifest: Manifest) -> Sequence[str]:
    wanted: dict[str, list[str]] = {name: [] for name in config.image_pull_secrets}
    for reference in config.secrets:
        wanted.setdefault(reference.secret, []).append(reference.key)
    for name, keys in wanted.items():
        secret = cluster.ask(f"asking for secret {name}", cluster.core.read_namespaced_secret, name, config.namespace)
        if secret is None:
            raise ConfigError(
                f"namespace {config.namespace} has no Secret {name}. Create it: kubectl -n {config.namespace} create "
                f"secret generic {name} --from-file={keys[0] if keys else 'KEY'}=FILE"
            )
        if missing := [key for key in keys if key not in (secret.data or {})]:
            raise ConfigError(
                f"cluster.secrets: Secret {name} has no key {', '.join(missing)}; it has "
                f"{', '.join(sorted(secret.data or {})) or 'none'}."
            )
    return []


def _account(cluster: Cluster, config: KubeRayConfig, plan: Plan, manifest: Manifest) -> Sequence[str]:
    name = config.service_account
    read = cluster.core.read_namespaced_service_account
    if name and cluster.ask(f"asking for service account {name}", read, name, config.namespace) is None:
        raise ConfigError(f"cluster.service_account={name}: namespace {config.namespace} has no such ServiceAccount.")
    return []


def _priority(cluster: Cluster, config: KubeRayConfig, plan: Plan, manifest: Manifest) -> Sequence[str]:
    name = config.queue.priority_class
    if not name:
        return []
    what = f"asking for priority class {name}"
    if config.queue.scheduler is Scheduler.kueue:
        group, plural = "kueue.x-k8s.io", "workloadpriorityclasses"
        version = cluster.serves(group, plural)
        get = cluster.objects.get_cluster_custom_object
        known = version and cluster.ask(what, get, group, version, plural, name)
    else:
        known = cluster.ask(what, cluster.scheduling.read_priority_class, name)
    if not known:
        kind = "WorkloadPriorityClass" if config.queue.scheduler is Scheduler.kueue else "PriorityClass"
        raise ConfigError(f"cluster.queue.priority_class={name}: {cluster.host} has no such {kind}.")
    return []


def _nodes(cluster: Cluster, config: KubeRayConfig, plan: Plan, manifest: Manifest) -> Sequence[str]:
    """Whether any node is large enough; quotas and what other jobs hold are for the scheduler to weigh."""
    listed = cluster.ask("asking for the nodes", cluster.core.list_node)
    chosen = [
        node
        for node in (listed.items if listed is not None else [])
        if config.node_selector.items() <= (node.metadata.labels or {}).items()
    ]
    if not chosen:
        return ["no node has the labels of cluster.node_selector: the pods wait until there is one."]
    wanted = manifest["spec"].get("rayClusterSpec", manifest["spec"])["headGroupSpec"]["template"]["spec"][
        "containers"
    ][0]
    asked = {name: parse_quantity(value) for name, value in wanted["resources"]["requests"].items()}
    have = [{name: parse_quantity((node.status.allocatable or {}).get(name, "0")) for name in asked} for node in chosen]
    for name, amount in asked.items():
        if (most := max(node[name] for node in have)) < amount:
            raise ConfigError(
                f"every pod asks for {name}={wanted['resources']['requests'][name]}, and the largest of {len(chosen)} "
                f"node(s) that cluster.node_selector allows has {most}. Ask for less per node and more nodes, or "
                "choose other nodes."
            )
    if fitting := sum(all(node[name] >= asked[name] for name in asked) for node in have):
        if fitting >= plan.resources.nodes:
            return []
        return [f"{plan.resources.nodes} nodes are asked for and {fitting} are large enough: pods may wait for more."]
    raise ConfigError(f"no node has all of {', '.join(asked)} that a pod asks for at once. Ask for less per node.")


ALL: tuple[Question, ...] = (_namespace, _operator, _name, _queue, _claims, _secrets, _account, _priority, _nodes)


def judged(cluster: Cluster, manifest: Manifest) -> None:
    """Have the API server itself judge the manifest, with all its admission controllers and without making anything.

    Raises:
        ConfigError: It would refuse it.
        SubmissionError: This user may not make such objects.
    """
    try:
        cluster.create_ray(manifest, dry_run=True)
    except RefusedError as error:
        raise ConfigError(f"the cluster would refuse the job: {error}") from error
    except TakenError as error:
        raise ConfigError(taken(manifest["kind"], manifest["metadata"]["name"], cluster.namespace)) from error
    except NotAllowedError as error:
        raise SubmissionError(f"{error}. Ask for the right to create {PLURALS[manifest['kind']]}.") from error
