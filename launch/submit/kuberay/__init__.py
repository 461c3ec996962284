"""Kubernetes: RayJob and RayCluster resources of the KubeRay operator."""
