"""Whether a job could be submitted from here: to Slurm, to Kubernetes."""

import shutil
import subprocess
from typing import TYPE_CHECKING

from launch.doctor.check import Finding, failed, ok, skipped
from launch.submit.kuberay.config import KubeRayConfig
from launch.submit.slurm.config import SlurmConfig
from workers.controller.config import TrainConfig

if TYPE_CHECKING:
    from kubernetes.client import V1SelfSubjectAccessReview

TIMEOUT_S = 10
"""Seconds that a controller may take to answer."""


def slurm(config: TrainConfig) -> Finding:
    """The commands are there, the controller answers, and the partition exists and takes jobs."""
    cluster = config.cluster
    if not isinstance(cluster, SlurmConfig):
        return skipped("only for cluster=slurm")
    missing = [name for name in ("sinfo", "sbatch", "scontrol", "squeue") if shutil.which(name) is None]
    if missing:
        return failed(
            f"{', '.join(missing)} not found", expected="Slurm's commands", remedy="Run this on a login node."
        )
    try:
        shown = subprocess.run(
            ["sinfo", "--noheader", "--format=%R|%a|%D|%c|%G"], capture_output=True, text=True, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        trouble = f"sinfo does not answer in {TIMEOUT_S} s"
    else:
        lines = shown.stderr.strip().splitlines() or [f"sinfo ends with {shown.returncode}"]
        trouble = lines[-1] if shown.returncode else ""
    if trouble:
        return failed(
            trouble,
            expected="a controller that answers",
            remedy="Check SLURM_CONF and the network; scontrol ping shows who should answer.",
        )
    return _partition(shown.stdout, cluster.partition, nodes=config.nodes)


def _partition(listing: str, wanted: str, *, nodes: int) -> Finding:
    """What sinfo says about a partition: a row for each kind of nodes in it."""
    rows = [line.split("|") for line in listing.splitlines() if line.count("|") >= 4]
    names = list(dict.fromkeys(row[0] for row in rows))
    mine = [row for row in rows if not wanted or row[0] == wanted]
    if not mine:
        return failed(
            f"cluster.partition={wanted}; there are {', '.join(names) or 'none'}",
            expected="one of them",
            remedy="Correct cluster.partition; sinfo lists them.",
        )
    open_rows = [row for row in mine if row[1] == "up"]
    if not open_rows:
        return failed(
            f"partition {wanted or names[0]} is {mine[0][1]}", expected="up", remedy="Choose another cluster.partition."
        )
    there = sum(int(row[2]) for row in open_rows)
    if there < nodes:
        return failed(
            f"{there} nodes in {wanted or 'all partitions'}", expected=f"nodes={nodes}", remedy="Ask for fewer nodes."
        )
    return ok("; ".join(f"{row[0]}: {row[2]} nodes of {row[3]} CPUs, {row[4]}" for row in open_rows))


def kubernetes(config: TrainConfig) -> Finding:
    """There are credentials, the API answers, KubeRay's resources are known, and jobs may be made in the namespace."""
    cluster = config.cluster
    if not isinstance(cluster, KubeRayConfig):
        return skipped("only for cluster=kuberay")
    from kubernetes import client
    from kubernetes import config as credentials
    from urllib3.exceptions import HTTPError

    settings = client.Configuration()
    settings.retries = 0
    try:
        credentials.load_config(client_configuration=settings)
    except credentials.ConfigException as error:
        return failed(
            str(error), expected="a kubeconfig, or a service account", remedy="Set KUBECONFIG, or run kubectl config."
        )
    except OSError as error:
        return failed(
            f"kubeconfig: {error}", expected="a file that can be read", remedy="Mend its permissions, or KUBECONFIG."
        )
    with client.ApiClient(settings) as api:
        try:
            known = client.CustomObjectsApi(api).get_api_resources("ray.io", "v1", _request_timeout=TIMEOUT_S)
            allowed = client.AuthorizationV1Api(api).create_self_subject_access_review(
                _may_create_jobs(cluster.namespace), _request_timeout=TIMEOUT_S
            )
        except client.ApiException as error:
            return _refusal(error.status, error.reason, host=settings.host)
        except HTTPError as error:
            return failed(
                f"{settings.host}: {_last(error)}",
                expected="an API server that answers",
                remedy="Check the network and the context of the kubeconfig: kubectl cluster-info.",
            )
    if "rayjobs" not in {resource.name for resource in known.resources}:
        return failed("ray.io/v1 has no RayJob", expected="KubeRay 1.0 or newer", remedy="Update its operator.")
    if not (allowed.status and allowed.status.allowed):
        return failed(
            f"no RayJobs may be made in namespace {cluster.namespace}",
            expected="the permission",
            remedy="Choose another cluster.namespace, or ask for a role that may create rayjobs.ray.io.",
        )
    return ok(f"{settings.host}: RayJob known, may be made in namespace {cluster.namespace}")


def _may_create_jobs(namespace: str) -> "V1SelfSubjectAccessReview":
    """The question whether this user may."""
    from kubernetes import client

    attributes = client.V1ResourceAttributes(namespace=namespace, verb="create", group="ray.io", resource="rayjobs")
    return client.V1SelfSubjectAccessReview(spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes))


def _refusal(status: int, reason: str, *, host: str) -> Finding:
    if status == 404:
        return failed(
            f"{host}: ray.io/v1 is not known",
            expected="KubeRay's custom resources",
            remedy="Install the KubeRay operator.",
        )
    return failed(
        f"{host}: {status} {reason}", expected="access to the API", remedy="Log in again, or check the credentials."
    )


def _last(error: BaseException) -> str:
    """The innermost reason of an error of urllib3, which wraps them."""
    reason = getattr(error, "reason", None)
    return _last(reason) if isinstance(reason, BaseException) else str(error).rsplit(": ", 1)[-1]
