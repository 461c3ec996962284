"""Access to Slurm and to Kubernetes: real commands without a cluster, and an API server on the loopback device."""

import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from launch.doctor import submission
from launch.doctor.check import Status
from tests.launch.test_conf import composed

LISTING = "low|up|2|4|gpu:4\nhigh|up|1|4|(null)\nhigh|up|1|8|gpu:8\nold|down|9|4|(null)\n"
"""As sinfo prints it."""


def test_only_the_chosen_kind_of_cluster_is_looked_at():
    assert submission.slurm(composed()).status is Status.skipped
    assert submission.kubernetes(composed("cluster=slurm")).status is Status.skipped


def test_slurms_commands_may_be_missing(monkeypatch):
    monkeypatch.setenv("PATH", "")
    found = submission.slurm(composed("cluster=slurm"))
    assert found.status is Status.failed
    assert "sinfo, sbatch" in found.seen
    assert "login node" in found.remedy


@pytest.mark.skipif(shutil.which("sinfo") is None, reason="Slurm is not installed")
def test_a_slurm_without_a_controller(monkeypatch):
    monkeypatch.setenv("SLURM_CONF", "/nowhere/slurm.conf")
    monkeypatch.setattr(submission, "TIMEOUT_S", 2)
    found = submission.slurm(composed("cluster=slurm"))
    assert found.status is Status.failed
    assert "SLURM_CONF" in found.remedy


@pytest.mark.parametrize(
    ("partition", "nodes", "status", "words"),
    [
        ("low", 2, Status.ok, "low: 2 nodes of 4 CPUs, gpu:4"),
        ("high", 2, Status.ok, "high: 1 nodes of 8 CPUs, gpu:8"),
        ("", 4, Status.ok, "low"),
        ("nope", 1, Status.failed, "there are low, high, old"),
        ("old", 1, Status.failed, "partition old is down"),
        ("low", 3, Status.failed, "2 nodes in low"),
    ],
)
def test_partitions(partition, nodes, status, words):
    found = submission._partition(LISTING, partition, nodes=nodes)
    assert found.status is status
    assert words in found.seen


class Api(BaseHTTPRequestHandler):
    """The two questions that are asked of an API server."""

    status, resources, allowed = 200, ["rayclusters", "rayjobs"], True
    asked: list[str]

    def do_GET(self):
        self.asked.append(self.path)
        named = [
            {"name": name, "kind": name, "namespaced": True, "singularName": "", "verbs": []} for name in self.resources
        ]
        self._answer({"groupVersion": "ray.io/v1", "resources": named})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body["spec"]["resourceAttributes"]["namespace"])
        self._answer({"spec": body["spec"], "status": {"allowed": self.allowed}})

    def _answer(self, content):
        text = json.dumps(content).encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture
def api(tmp_path, monkeypatch):
    """A kubeconfig that leads to a server of our own; the class decides what it answers."""
    handler = type("Answers", (Api,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
            "users": [{"name": "u", "user": {"token": "secret"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        (tmp_path / "kubeconfig").write_text(json.dumps(config))
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
        monkeypatch.setattr(
            "kubernetes.config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"), raising=False
        )
        yield handler
        server.shutdown()
        thread.join()


def kubernetes(namespace: str = "default"):
    return submission.kubernetes(composed("cluster=kuberay", f"cluster.namespace={namespace}"))


def test_a_cluster_that_takes_rayjobs(api):
    found = kubernetes("team")
    assert found.status is Status.ok
    assert "namespace team" in found.seen
    assert api.asked == ["/apis/ray.io/v1", "team"]


def test_a_cluster_without_kuberay(api):
    api.status = 404
    assert "Install the KubeRay operator" in kubernetes().remedy
    api.status, api.resources = 200, ["rayclusters"]
    assert "no RayJob" in kubernetes().seen


def test_a_cluster_that_lets_nobody_in(api):
    api.status = 401
    assert "401" in kubernetes().seen
    api.status, api.allowed = 200, False
    found = kubernetes("team")
    assert found.status is Status.failed
    assert "namespace team" in found.seen


def test_an_api_server_that_is_not_there(api, tmp_path):
    path = tmp_path / "kubeconfig"
    settings = json.loads(path.read_text())
    settings["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:1"
    path.write_text(json.dumps(settings))
    found = kubernetes()
    assert found.status is Status.failed
    assert "Connection refused" in found.seen
    path.unlink()
    assert "KUBECONFIG" in kubernetes().remedy
