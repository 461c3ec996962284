"""Checks that need no cluster: the plan against the configuration, and the manifest against schema and rules."""

from pathlib import PurePosixPath

from delta.errors import ConfigError
from launch.submit.kuberay import rules
from launch.submit.kuberay.config import KubeRayConfig
from launch.submit.kuberay.manifest import Manifest, is_image, shm_mib, volume_of
from launch.submit.kuberay.schema import Schema
from launch.submit.kuberay.schema import problems as schema_problems
from launch.submit.plan import Plan


def check_plan(plan: Plan, config: KubeRayConfig) -> None:
    """What can only be seen where the words of the configuration are still known.

    Raises:
        ConfigError: All that was found, one sentence each.
    """
    found = [*_image(plan), *_memory(plan, config), *_run_dir(plan, config), *_inputs(plan, config)]
    if found:
        raise ConfigError("\n".join(found))


def advice(plan: Plan) -> list[str]:
    """What works and is better said."""
    if plan.resources.memory_mib:
        return []
    return [
        "pods ask for no memory (cluster.host_memory_gib=0): on a full node they are the first to be ended, and a "
        "quota for memory refuses them."
    ]


def check_manifest(manifest: Manifest, schema: Schema | None) -> None:
    """The rules, and the closed schema where there is one.

    Raises:
        ConfigError: All that was found, one sentence each, with its place.
    """
    found = rules.problems(manifest)
    if schema is not None:
        found += schema_problems(manifest, schema)
    if found:
        name = (manifest.get("metadata") or {}).get("name")
        raise ConfigError(f"{manifest.get('kind')} {name} would be refused:\n  " + "\n  ".join(found))


def _image(plan: Plan) -> list[str]:
    if not plan.image:
        return ["cluster.image is empty: pods need an image with this project in it (docs/kubernetes.md); name it."]
    if not is_image(plan.image):
        return [
            f"cluster.image={plan.image!r} is no name of an image; expected such as registry.example/team/delta:1.0."
        ]
    return []


def _memory(plan: Plan, config: KubeRayConfig) -> list[str]:
    shm, objects, memory = shm_mib(plan, config), plan.resources.object_store_mib, plan.resources.memory_mib
    found = []
    if shm < objects:
        found.append(
            f"cluster.shm_mib={shm} is less than cluster.object_store_mib={objects}, which is in it; expected more, or "
            "0 for a size that fits."
        )
    if memory and memory <= shm:
        found.append(
            f"a pod of {memory} MiB (cluster.host_memory_gib) holds /dev/shm of {shm} MiB and nothing else; ask for "
            "more memory, or for a smaller cluster.object_store_mib."
        )
    return found


def _run_dir(plan: Plan, config: KubeRayConfig) -> list[str]:
    volume = volume_of(plan.run_dir, config)
    mounted = ", ".join(volume.path for volume in config.volumes) or "none"
    if volume is None:
        return [
            f"run_dir={plan.run_dir} is on none of cluster.volumes ({mounted}): it would be lost with the pods. Choose "
            "a folder below one of them."
        ]
    if volume.read_only:
        return [f"run_dir={plan.run_dir} is on {volume.path} (claim {volume.claim}), which is mounted read_only."]
    return []


def _inputs(plan: Plan, config: KubeRayConfig) -> list[str]:
    """What the run reads has to be where the pods are."""
    return [
        f"{path} is read by the run, but is on none of cluster.volumes and so not in the pods. Copy it to a volume, or "
        "say in cluster.image_paths that the image has it."
        for path in plan.inputs
        if volume_of(path, config) is None
        and not any(PurePosixPath(path).is_relative_to(held) for held in config.image_paths)
    ]
