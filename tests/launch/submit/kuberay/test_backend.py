"""From a plan to a job, through the real client, at an API server over loopback."""

import base64
import os
import re
import shutil
import socket
import subprocess

import pytest
import yaml

from delta.errors import ConfigError, SubmissionError
from launch.submit.backend import Backend
from launch.submit.kuberay.backend import KubeRayBackend
from launch.submit.kuberay.config import (
    Kind,
    QueueConfig,
    Scheduler,
    SecretConfig,
    SubmissionMode,
    VolumeConfig,
)
from tests.launch.submit.kuberay.conftest import DEFINITIONS
from tests.launch.submit.kuberay.plans import CRDS, make_config, make_plan

RAYJOBS = "/apis/ray.io/v1/namespaces/research/rayjobs"
CORE = "/api/v1/namespaces/research"


def submit(plan=None, **settings):
    backend: Backend = KubeRayBackend(make_config(**settings))
    plan = plan or make_plan()
    return backend.submit(plan, backend.render(plan))


def check(plan=None, **settings):
    return list(KubeRayBackend(make_config(**settings)).check(plan or make_plan()))


def refusal(plan=None, **settings) -> str:
    with pytest.raises(ConfigError) as caught:
        check(plan, **settings)
    return str(caught.value)


# Sending.


def test_what_was_rendered_is_what_the_cluster_has(server):
    backend = KubeRayBackend(make_config())
    files = backend.render(make_plan())
    sent = backend.submit(make_plan(), files)
    (rendered,) = files.values()
    expected, job = yaml.safe_load(rendered), server.stored("rayjobs")["first-run"]
    assert job["spec"] == expected["spec"]
    assert job["metadata"]["labels"] == expected["metadata"]["labels"]
    assert sent.job_id == "first-run"
    assert sent.cancel == "kubectl -n research delete rayjob first-run"
    assert sent.follow.startswith("kubectl -n research get rayjob first-run; ")


def test_every_job_has_a_token_of_its_own_that_goes_with_it(server):
    submit()
    submit(make_plan(name="second-run"))
    tokens = set()
    for name in ("first-run", "second-run"):
        secret = server.stored("secrets")[f"{name}-rayjob-token"]
        tokens.add(base64.b64decode(secret["data"]["auth_token"]).decode())
        (owner,) = secret["metadata"]["ownerReferences"]
        assert owner["uid"] == server.stored("rayjobs")[name]["metadata"]["uid"]
        assert (
            server.stored("rayjobs")[name]["spec"]["rayClusterSpec"]["authOptions"]["secretName"]
            in secret["metadata"]["name"]
        )
    assert len(tokens) == 2
    assert all(re.fullmatch("[0-9a-f]{64}", token) for token in tokens)
    assert not any(token in str(server.stored("rayjobs")) for token in tokens)


def test_a_refused_job_leaves_no_secret(server):
    before = set(server.objects)
    server.failing[f"POST {RAYJOBS}"] = (403, "exceeded quota: team, requested: 8, used: 60, limited: 64")
    with pytest.raises(SubmissionError, match="exceeded quota: team"):
        submit()
    assert set(server.objects) == before


def test_what_the_cluster_would_drop_is_refused_instead(server):
    """An API server forgets fields that it does not know, unless it is told to be strict."""
    backend = KubeRayBackend(make_config())
    (text,) = backend.render(make_plan()).values()
    with pytest.raises(SubmissionError, match="no field backofLimit here; did you mean backoffLimit"):
        backend.submit(make_plan(), {"rayjob.yaml": text.replace("backoffLimit", "backofLimit")})
    assert "first-run" not in server.stored("rayjobs")


def test_a_name_that_is_taken_stays_whose_it_is(server):
    submit()
    before = dict(server.objects)
    with pytest.raises(SubmissionError, match="RayJob first-run exists already in namespace research"):
        submit()
    assert server.objects == before
    assert "exists already in namespace research" in refusal()


def test_a_secret_that_a_cut_off_submission_left_is_replaced(server):
    server.put(f"{CORE}/secrets", "first-run-rayjob-token", data={"auth_token": "b2xk"})
    submit()
    assert server.stored("secrets")["first-run-rayjob-token"]["data"]["auth_token"] != "b2xk"


def test_a_cluster_to_work_on(server):
    submit()
    sent = submit(kind=Kind.cluster)
    job_token = server.stored("secrets")["first-run-rayjob-token"]  # of a job with the same run folder
    assert job_token["metadata"]["ownerReferences"][0]["kind"] == "RayJob"
    assert server.stored("rayclusters")["first-run"]["spec"]["headGroupSpec"]
    assert sent.cancel == "kubectl -n research delete raycluster first-run"
    assert sent.follow.endswith("-- bash")
    assert (
        server.stored("secrets")["first-run-raycluster-token"]["metadata"]["ownerReferences"][0]["kind"] == "RayCluster"
    )


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (SubmissionMode.HTTPMode, "tail -n +1 -F /runs/first/job/driver.log"),
        (SubmissionMode.K8sJobMode, "kubectl -n research logs -f job/first-run"),
    ],
)
def test_how_to_follow_depends_on_where_the_output_is(server, mode, expected):
    assert submit(submission_mode=mode).follow.endswith(expected)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_understands_the_answers(server, tmp_path):
    """The command that ends a job, as it is printed, ends it, and its Secret goes too."""
    sent = submit()
    server.anonymous = True  # kubectl sends no token without TLS
    environment = {**os.environ, "HOME": str(tmp_path), "no_proxy": "127.0.0.1"}
    state = subprocess.run(
        sent.follow.split(";")[0].split(), env=environment, capture_output=True, text=True, timeout=60
    )
    assert "first-run" in state.stdout, state.stderr
    ended = subprocess.run(
        [*sent.cancel.split(), "--wait=false"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    assert "first-run" not in server.stored("rayjobs")
    assert "first-run-rayjob-token" not in server.stored("secrets")


# Asking before.


def test_checking_a_job_that_can_run_says_nothing_and_makes_nothing(server):
    before = dict(server.objects)
    assert check() == []
    assert server.objects == before
    assert server.requests[-1] == f"POST {RAYJOBS}?dryRun"
    assert {request.split()[0] for request in server.requests[:-1]} == {"GET"}


def test_several_faults_are_said_at_once(server):
    said = refusal(
        service_account="trainer",
        queue=QueueConfig(scheduler=Scheduler.kueue, name="team"),
        volumes=[VolumeConfig(claim="rnus", path="/runs")],
    )
    assert len(said.splitlines()) == 3
    assert "no PersistentVolumeClaim rnus" in said
    assert "cluster.service_account=trainer" in said
    assert "has no localqueues of kueue.x-k8s.io" in said


def test_a_namespace_that_is_not_there(server):
    del server.objects[CORE]
    assert "cluster.namespace=research: http://127.0.0.1" in refusal()


def test_no_operator(server):
    for path in [path for path in server.objects if "ray.io" in path]:
        del server.objects[path]
    assert "does not know RayJob of ray.io. Have the KubeRay operator installed" in refusal()


def test_an_operator_that_is_too_old_for_the_manifest(server):
    """The definition of the cluster, not the one of some folder, says what the fields are."""
    fields = server.objects[f"{DEFINITIONS}/rayjobs.ray.io"]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    del fields["properties"]["spec"]["properties"]["backoffLimit"]
    assert "spec: there is no field backoffLimit here" in refusal()


@pytest.mark.skipif(not CRDS.is_dir(), reason="the folder with KubeRay's definitions is not here")
def test_a_cluster_with_kuberays_own_definitions_takes_the_job(server):
    for plural in ("rayjobs", "rayclusters"):
        definition = yaml.load((CRDS / f"ray.io_{plural}.yaml").read_text(), Loader=yaml.CSafeLoader)
        server.put(DEFINITIONS, f"{plural}.ray.io", spec=definition["spec"])
    assert check(make_plan(nodes=2, gpus=8)) == []
    assert check(kind=Kind.cluster) == []
    submit()
    assert "first-run" in server.stored("rayjobs")


QUEUES = [
    (Scheduler.kueue, "/apis/kueue.x-k8s.io/v1beta2/namespaces/research/localqueues"),
    (Scheduler.volcano, "/apis/scheduling.volcano.sh/v1beta1/queues"),
    (Scheduler.kai, "/apis/scheduling.run.ai/v2/queues"),
]


@pytest.mark.parametrize(("scheduler", "collection"), QUEUES)
def test_queues_are_looked_up_where_they_are(server, scheduler, collection):
    server.put(collection, "team")
    warnings = check(queue=QueueConfig(scheduler=scheduler, name="team"))
    assert ["batchScheduler.name" in warning for warning in warnings] == [True] * (scheduler is not Scheduler.kueue)
    said = refusal(queue=QueueConfig(scheduler=scheduler, name="taem"))
    assert "cluster.queue.name=taem: there is no such queue" in said
    assert said.endswith("expected one of: team.")


def test_priority_classes(server):
    server.put("/apis/kueue.x-k8s.io/v1beta2/namespaces/research/localqueues", "team")
    server.put("/apis/kueue.x-k8s.io/v1beta2/workloadpriorityclasses", "low", value=1)
    server.put("/apis/scheduling.k8s.io/v1/priorityclasses", "high", value=1)
    kueue = {"scheduler": Scheduler.kueue, "name": "team"}
    assert check(queue=QueueConfig(priority_class="low", **kueue)) == []
    assert "has no such WorkloadPriorityClass" in refusal(queue=QueueConfig(priority_class="high", **kueue))
    assert check(queue=QueueConfig(priority_class="high")) == []
    assert "has no such PriorityClass" in refusal(queue=QueueConfig(priority_class="low"))


def test_what_yunikorn_has_cannot_be_asked(server):
    (warning,) = check(queue=QueueConfig(scheduler=Scheduler.yunikorn, name="root.research"))
    assert "queue root.research was not checked" in warning


def test_a_claim_for_one_node_is_not_enough_for_two(server):
    server.put(
        f"{CORE}/persistentvolumeclaims", "runs", spec={"accessModes": ["ReadWriteOnce"]}, status={"phase": "Pending"}
    )
    assert check() == ["claim runs is not bound yet; pods wait until it is."]
    assert "claim runs is ReadWriteOnce, and 2 pods use it; expected ReadWriteMany" in refusal(make_plan(nodes=2))
    server.objects[f"{CORE}/persistentvolumeclaims/runs"]["status"]["phase"] = "Lost"
    assert "has lost its volume" in refusal()


def test_secrets_and_their_keys(server):
    assert "Secret wandb has no key key; it has api-key" in refusal(
        secrets=[SecretConfig(env="WANDB_API_KEY", secret="wandb", key="key")]
    )
    said = refusal(secrets=[SecretConfig(env="HF_TOKEN", secret="hf", key="token")])
    assert "kubectl -n research create secret generic hf --from-file=token=FILE" in said
    assert "has no Secret registry" in refusal(image_pull_secrets=["registry"])


def test_more_than_any_node_has(server):
    assert "asks for nvidia.com/gpu=16, and the largest of 2 node(s)" in refusal(make_plan(gpus=16))
    for node in server.stored("nodes").values():
        node["status"]["allocatable"]["memory"] = "100Gi"
    assert "asks for memory=131072Mi" in refusal()


def test_a_node_with_the_memory_and_another_with_the_gpus(server):
    server.stored("nodes")["node0"]["status"]["allocatable"]["nvidia.com/gpu"] = "0"
    server.stored("nodes")["node1"]["status"]["allocatable"]["memory"] = "1Gi"
    assert "no node has all of cpu, memory, nvidia.com/gpu" in refusal(make_plan(gpus=1))


def test_nodes_that_may_still_come(server):
    assert "the pods wait until there is one" in check(node_selector={"pool": "big"})[0]
    assert "4 nodes are asked for and 2 are large enough" in check(make_plan(nodes=4))[0]


def test_what_may_not_be_asked_is_said_and_does_not_stop_the_job(server):
    server.forbidden += [
        "GET /api/v1/nodes",
        "GET /api/v1/namespaces/research$",
        f"GET {CORE}/secrets",
        f"GET {DEFINITIONS}",
    ]
    warnings = check()
    assert len(warnings) == 4
    assert all(warning.startswith("not checked, because asking for") for warning in warnings)
    assert all('User "me" cannot do this' in warning for warning in warnings)


def test_the_judgement_of_the_cluster_itself_is_asked_last(server):
    server.failing[f"POST {RAYJOBS}"] = (422, "admission webhook denied the request: no GPUs on Fridays")
    assert "would refuse the job: trying RayJob first-run: admission webhook denied" in refusal()


def test_somebody_who_may_not_create_jobs(server):
    server.forbidden.append(f"POST {RAYJOBS}")
    with pytest.raises(SubmissionError, match="Ask for the right to create rayjobs"):
        check()


# No way there.


def test_no_kubeconfig(monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))
    with pytest.raises(SubmissionError, match=r"no way to a Kubernetes cluster: .*Expected a kubeconfig"):
        check()


def test_a_context_that_is_not_in_the_kubeconfig(server):
    with pytest.raises(SubmissionError, match="the context production"):
        check(context="production")
    assert check(context="test") == []
    assert submit(context="test").cancel == "kubectl --context test -n research delete rayjob first-run"


def test_a_cluster_that_does_not_know_this_user(server, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path, token="old")))
    with pytest.raises(SubmissionError, match=r"does not know this user: Unauthorized .*Log in again"):
        check()


def test_nobody_at_home(server, tmp_path, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path, port=taken.getsockname()[1])))
        with pytest.raises(SubmissionError, match=r"no answer from http://127.0.0.1:"):
            check()


def test_a_cluster_that_thinks_for_too_long(server):
    server.slow[f"GET {CORE}"] = 60.0
    with pytest.raises(SubmissionError, match=r"no answer from .*Read timed out"):
        check(request_timeout_s=0.2)


def test_a_job_that_was_created_without_an_answer_keeps_its_secret(server):
    """The answer is late, the job is there: taking its token away would break it."""
    backend = KubeRayBackend(make_config(request_timeout_s=0.5))
    create = server._create

    def create_and_think(path, body, options):
        made = create(path, body, options)
        if path == RAYJOBS:
            server.ended.wait(60)
        return made

    server._create = create_and_think
    with pytest.raises(SubmissionError, match="no answer"):
        backend.submit(make_plan(), backend.render(make_plan()))
    assert "first-run" in server.stored("rayjobs")
    assert "first-run-rayjob-token" in server.stored("secrets")
