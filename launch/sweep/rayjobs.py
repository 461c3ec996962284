"""What a Kubernetes cluster knows about the RayJobs of a sweep."""

from typing import Any

from delta.errors import SubmissionError
from launch.submit.kuberay.config import Kind, KubeRayConfig
from launch.sweep.state import Job, State

QUEUED = ("", "Initializing", "Waiting", "Suspending", "Suspended")
"""The operator's states (`jobDeploymentStatus`) of a job whose run has not begun, or has lost its pods for now."""
OVER = ("Complete", "Failed", "ValidationFailed")


def rayjob_of(name: str, config: KubeRayConfig) -> Job:
    """How a member's job is doing; one that cannot be asked about counts as running, so that it is not sent twice."""
    from launch.submit.kuberay.api import Cluster  # with the client, which takes a second to import

    kind = "RayJob" if config.kind is Kind.job else "RayCluster"
    try:
        found = Cluster(config).ray(kind, name)
    except SubmissionError as error:
        return Job(state=State.running, detail=f"{kind} {name}, as far as is known: {error}")
    if found is None:
        return Job(state=State.preempted, detail=f"{kind} {name} was deleted")
    if config.kind is Kind.cluster:
        return Job(state=State.running, detail=f"RayCluster {name} is there until it is deleted")
    return _job(name, found.get("status") or {})


def _job(name: str, status: dict[str, Any]) -> Job:
    deployment, run = status.get("jobDeploymentStatus", ""), status.get("jobStatus", "")
    said = f"RayJob {name}, {(deployment or 'new').lower()}"
    if deployment in QUEUED:
        return Job(state=State.waiting, detail=said)
    if deployment not in OVER:
        return Job(state=State.running, detail=said)
    if run == "SUCCEEDED":
        return Job(state=State.complete, code=0)  # its files may be on a volume that is not here
    reason = " ".join(str(status.get("message") or status.get("reason") or "").split())
    state = State.preempted if run == "STOPPED" else State.failed
    return Job(state=state, detail=f"{said} {run.lower()}".rstrip() + (f": {reason}" if reason else ""))
