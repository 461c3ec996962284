"""Every rule finds its mistake and says where, and nothing else."""

from typing import Any

import pytest

from launch.submit.kuberay import rules
from launch.submit.kuberay.config import Kind
from tests.launch.submit.kuberay.plans import job_manifest

JOB, CLUSTER = ("spec",), ("spec", "rayClusterSpec")
HEAD = (*CLUSTER, "headGroupSpec")
POD = (*HEAD, "template", "spec")
CONTAINER = (*POD, "containers", 0)
WORKERS = (*CLUSTER, "workerGroupSpecs", 0)
GONE = object()
HEAD_POD = {"containers": [{"name": "head", "image": "delta:1"}], "restartPolicy": "Always"}


def spoiled(*changes: tuple[tuple[Any, ...], Any]) -> dict[str, Any]:
    """A manifest that is in order, with other values at some places."""
    manifest = job_manifest()
    for (*way, last), value in changes:
        place: Any = manifest
        for step in way:
            place = place[step]
        if value is GONE:
            del place[last]
        else:
            place[last] = value
    return manifest


MISTAKES: dict[str, tuple[list[tuple[tuple[Any, ...], Any]], str]] = {
    "kind": ([(("kind",), "RayJobs")], "kind=RayJobs; expected ray.io/v1 and RayJob or RayCluster"),
    "api version": ([(("apiVersion",), "ray.io/v1alpha1")], "apiVersion=ray.io/v1alpha1"),
    "name with capitals": ([(("metadata", "name"), "First")], "metadata.name='First'; expected lower-case"),
    "name begins with a digit": ([(("metadata", "name"), "2nd")], "a letter first"),
    "name with a dot": ([(("metadata", "name"), "a.b")], "metadata.name='a.b'"),
    "name ends in a hyphen": ([(("metadata", "name"), "a-")], "no hyphen last"),
    "name too long": ([(("metadata", "name"), "a" * 48)], "48 characters; a RayJob may have 47"),
    "label value": ([(("metadata", "labels", "team"), "a b")], "metadata.labels: team='a b'"),
    "label value is a number": ([(("metadata", "labels", "team"), 5)], "team=5; expected a string"),
    "label name": ([(("metadata", "labels", "a/b/c"), "x")], "'a/b/c' is no name of a label"),
    "label of pods": ([((*HEAD, "template", "metadata", "labels", "t"), "-")], "headGroupSpec.template.metadata"),
    "annotation name": ([(("metadata", "annotations", "a b"), "x")], "'a b' is no name of a label"),
    "submission mode": ([((*JOB, "submissionMode"), "HttpMode")], "submissionMode='HttpMode'; expected K8sJobMode"),
    "no entrypoint": ([((*JOB, "entrypoint"), " ")], "spec.entrypoint is empty"),
    "sidecar with a submitter template": (
        [((*JOB, "submissionMode"), "SidecarMode"), ((*JOB, "submitterPodTemplate"), {"spec": {}})],
        "spec.submitterPodTemplate with submissionMode=SidecarMode",
    ),
    "sidecar with a submitter configuration": (
        [((*JOB, "submissionMode"), "SidecarMode"), ((*JOB, "submitterConfig"), {"backoffLimit": 2})],
        "spec.submitterConfig with submissionMode=SidecarMode",
    ),
    "sidecar and a head that restarts": (
        [((*JOB, "submissionMode"), "SidecarMode"), ((*POD, "restartPolicy"), "Always")],
        "restartPolicy=Always of the head",
    ),
    "no cluster": ([((*JOB, "rayClusterSpec"), GONE)], "neither of rayClusterSpec and clusterSelector"),
    "two clusters": (
        [((*JOB, "clusterSelector"), {"ray.io/cluster": "x"}), ((*JOB, "backoffLimit"), 0),
         (("metadata", "labels"), {})],
        "both rayClusterSpec and clusterSelector",
    ),
    "suspended and kept": (
        [((*JOB, "suspend"), True), ((*JOB, "shutdownAfterJobFinishes"), False), ((*JOB, "ttlSecondsAfterFinished"), 0),
         (("metadata", "labels"), {})],
        "spec.suspend without shutdownAfterJobFinishes",
    ),
    "negative backoff": ([((*JOB, "backoffLimit"), -1)], "spec.backoffLimit=-1; expected 0 or more"),
    "backoff of an interactive job": (
        [((*JOB, "submissionMode"), "InteractiveMode")], "backoffLimit with submissionMode=InteractiveMode"
    ),
    "negative time to live": ([((*JOB, "ttlSecondsAfterFinished"), -1)], "ttlSecondsAfterFinished=-1"),
    "time to live of what stays": (
        [((*JOB, "shutdownAfterJobFinishes"), False), (("metadata", "labels"), {})],
        "ttlSecondsAfterFinished without shutdownAfterJobFinishes",
    ),
    "no time at all": ([((*JOB, "activeDeadlineSeconds"), 0)], "spec.activeDeadlineSeconds=0; expected 1 or more"),
    "no time to start": ([((*JOB, "preRunningDeadlineSeconds"), -5)], "spec.preRunningDeadlineSeconds=-5"),
    "another manager": ([((*JOB, "managedBy"), "me")], "spec.managedBy='me'"),
    "no token": ([((*CLUSTER, "authOptions"), GONE)], "authOptions.mode is not token"),
    "token with an old Ray": ([((*CLUSTER, "rayVersion"), "2.51.1")], "rayVersion='2.51.1' with authOptions"),
    "token with no version": ([((*CLUSTER, "rayVersion"), GONE)], "rayVersion=''"),
    "no least size": ([((*WORKERS, "minReplicas"), GONE)], "workerGroupSpecs[0]: minReplicas=None, maxReplicas=3"),
    "sizes the wrong way round": ([((*WORKERS, "minReplicas"), 4)], "minReplicas=4, maxReplicas=3"),
    "size out of its range": ([((*WORKERS, "replicas"), 9)], "replicas=9; expected 3 to 3"),
    "group without a name": ([((*WORKERS, "groupName"), GONE)], "groupName is missing"),
    "number where Ray wants text": ([((*HEAD, "rayStartParams", "num-cpus"), 8)], "num-cpus=8; expected a string"),
    "resources twice": ([((*HEAD, "resources"), {"CPU": "8"})], "has resources and rayStartParams num-cpus"),
    "labels for ray start": ([((*WORKERS, "rayStartParams", "labels"), "a=b")], "rayStartParams.labels; expected"),
    "pod without containers": ([((*WORKERS, "template", "spec", "containers"), [])], "containers is empty"),
    "mount of no volume": ([((*CONTAINER, "volumeMounts", 0, "name"), "x")], "mounts volume x, which the pod has not"),
    "two mounts in a place": (
        [((*CONTAINER, "volumeMounts", 0, "mountPath"), "/runs")], "mounts two volumes at /runs"
    ),
    "no image": ([((*CONTAINER, "image"), "")], "containers[0].image=''"),
    "quantity": ([((*CONTAINER, "resources", "limits", "cpu"), "4 cores")], "limits.cpu='4 cores'; expected a"),
    "fewer GPUs asked than allowed": (
        [((*CONTAINER, "resources", "requests", "nvidia.com/gpu"), "4")], "requests nvidia.com/gpu=4, limits 8"
    ),
    "secret in plain text": (
        [((*CONTAINER, "env", 0), {"name": "WANDB_API_KEY", "value": "hunter2"})], "WANDB_API_KEY has its value in"
    ),
    "queue and pods that stay": (
        [((*JOB, "shutdownAfterJobFinishes"), False), ((*JOB, "ttlSecondsAfterFinished"), 0)],
        "kueue.x-k8s.io/queue-name without spec.shutdownAfterJobFinishes",
    ),
    "queue and autoscaling": ([((*CLUSTER, "enableInTreeAutoscaling"), True)], "enableInTreeAutoscaling with kueue"),
    "more groups than Kueue takes": (
        [((*CLUSTER, "workerGroupSpecs"), [job_manifest()["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]] * 8)],
        "workerGroupSpecs has 8 groups; Kueue takes 7",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found_and_nothing_else(mistake):
    changes, expected = MISTAKES[mistake]
    (found,) = rules.problems(spoiled(*changes))
    assert expected in found
    assert found.endswith(".")


def test_secrets_are_not_repeated_in_the_message():
    changes, _ = MISTAKES["secret in plain text"]
    assert "hunter2" not in "".join(rules.problems(spoiled(*changes)))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([((*JOB, "suspend"), True)], {"spec.suspend with clusterSelector"}),
        ([((*JOB, "backoffLimit"), 3)], {"spec.backoffLimit with clusterSelector"}),
        ([((*JOB, "submissionMode"), "SidecarMode")], {"spec.clusterSelector with submissionMode=SidecarMode"}),
        ([(("metadata", "labels"), {rules.KUEUE_QUEUE: "q"})], {"kueue.x-k8s.io/queue-name with spec.clusterSelector"}),
    ],
)
def test_what_a_cluster_of_somebody_else_does_not_go_with(changes, expected):
    selected = [
        (("metadata", "labels"), {}),
        ((*JOB, "rayClusterSpec"), GONE),
        ((*JOB, "clusterSelector"), {"ray.io/cluster": "x"}),
        ((*JOB, "backoffLimit"), 0),
    ]
    found = rules.problems(spoiled(*selected, *changes))
    assert {text for text in expected if any(text in problem for problem in found)} == expected
    assert len(found) == 1
    assert rules.problems(spoiled(*selected)) == []


def test_every_rule_is_tried():
    """A rule that no mistake above meets could be deleted without a test noticing."""
    tried = {rule for changes, _ in MISTAKES.values() for rule in rules.RULES if list(rule(spoiled(*changes)))}
    assert tried == set(rules.RULES)


def test_a_cluster_is_held_to_the_rules_of_clusters():
    manifest = job_manifest(kind=Kind.cluster)
    manifest["spec"]["workerGroupSpecs"][0]["minReplicas"] = 4
    manifest["metadata"]["name"] = "a" * 54
    found = rules.problems(manifest)
    assert len(found) == 2
    assert "a RayCluster may have 53" in found[0]
    assert found[1].startswith("spec.workerGroupSpecs[0]: minReplicas=4")


@pytest.mark.parametrize("empty", [{}, {"apiVersion": "ray.io/v1", "kind": "RayJob"}, {"spec": None, "metadata": None}])
def test_what_is_hardly_a_manifest_is_described_and_not_tripped_over(empty):
    assert rules.problems(empty)
