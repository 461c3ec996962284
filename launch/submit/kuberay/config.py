"""What is said about a run to Kubernetes."""

from dataclasses import dataclass

from launch.submit.config import SubmittedConfig


@dataclass(kw_only=True, slots=True)
class KubeRayConfig(SubmittedConfig):
    """A Kubernetes cluster with the KubeRay operator (`cluster=kuberay`)."""

    namespace: str = "default"
    """Namespace of the job."""
