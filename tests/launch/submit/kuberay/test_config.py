"""From the command line to a job: Hydra composes the configuration, and what cannot be meant is refused there."""

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from launch.overrides import CONF
from launch.schema import register
from launch.submit.kuberay.backend import KubeRayBackend
from launch.submit.kuberay.config import KubeRayConfig, Scheduler, SecretConfig, TolerationConfig, VolumeConfig
from launch.submit.plan import plan_for
from tests.conftest import ROOT

register()

SAID = (
    "cluster=kuberay",
    "experiment=laptop",
    "nodes=2",
    "run_dir=/runs/first",
    "cluster.namespace=research",
    "cluster.image=registry.example/delta:1",
    "cluster.volumes=[{claim:runs,path:/runs}]",
    "cluster.secrets=[{env:WANDB_API_KEY,secret:wandb,key:api-key}]",
    "cluster.tolerations=[{key:nvidia.com/gpu,effect:NoSchedule}]",
    "+cluster.node_selector={example.com/pool:big}",
    "cluster.queue.scheduler=kueue",
    "cluster.queue.name=team",
    "cluster.grace_s=200",
    "cluster.host_memory_gib=16",
)


def composed(*overrides: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_object(compose("train", overrides=[*SAID, *overrides]))


def test_what_is_said_on_the_command_line_arrives():
    cluster = composed().cluster
    assert type(cluster) is KubeRayConfig
    assert cluster.volumes == [VolumeConfig(claim="runs", path="/runs")]
    assert cluster.secrets == [SecretConfig(env="WANDB_API_KEY", secret="wandb", key="api-key")]
    assert cluster.tolerations == [TolerationConfig(key="nvidia.com/gpu", effect="NoSchedule")]
    assert cluster.node_selector == {"example.com/pool": "big"}
    assert cluster.queue.scheduler is Scheduler.kueue


def test_the_file_says_the_defaults_of_the_class():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        written = OmegaConf.to_object(compose("train", overrides=["run_dir=x", "cluster=kuberay"])).cluster
    assert written == KubeRayConfig()


def test_a_plan_of_the_command_line_is_a_job(server):
    config = composed()
    plan = plan_for(config, SAID, work_dir=Path("/home/somebody"))
    backend = KubeRayBackend(config.cluster)
    for node in server.stored("nodes").values():
        node["metadata"]["labels"] = {"example.com/pool": "big"}
    server.put("/apis/kueue.x-k8s.io/v1beta2/namespaces/research/localqueues", "team")
    files = backend.render(plan)
    backend.lint(plan, files)
    assert list(backend.check(plan)) == []
    backend.submit(plan, files)
    spec = server.stored("rayjobs")[plan.name]["spec"]
    assert spec["entrypoint"].startswith(
        "python -m launch.submit.kuberay.attempt /runs/first/job -- delta-train cluster="
    )
    assert spec["entrypoint"].endswith(" run_dir=/runs/first faults.grace_s=200 resume=auto")
    assert spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 230
    pod = spec["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    assert pod["resources"]["limits"] == {"cpu": "2", "memory": "16384Mi"}


def test_the_file_in_the_documentation_is_a_cluster(tmp_path):
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "research.yaml").write_text(block)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        said = [f"hydra.searchpath=[file://{tmp_path}]", "cluster=research", "nodes=4", "run_dir=/runs/first"]
        config = OmegaConf.to_object(compose("train", overrides=said))
    assert type(config.cluster) is KubeRayConfig
    assert config.cluster.node_selector == {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    assert config.cluster.queue.scheduler is Scheduler.kueue
    assert [volume.read_only for volume in config.cluster.volumes] == [False, True]


def test_the_module_in_the_entrypoint_is_installed():
    assert '"launch.submit.kuberay"' in (ROOT / "setup.py").read_text()
    assert (ROOT / "launch" / "submit" / "kuberay" / "attempt.py").exists()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("cluster.queue.scheduler=slurm", "slurm"),
        ("cluster.queue.scheduler=none", "cluster.queue.scheduler=none; expected kueue"),
        ("cluster.queue.name=''", "without cluster.queue.name"),
        ("cluster.queue={scheduler:volcano,name:q,topology:rack}", "for volcano expected a tier such as 2"),
        ("cluster.queue={scheduler:kai,name:q,topology:rack}", "is for kueue and volcano, not for kai"),
        ("cluster.submission_mode=HttpMode", "HttpMode"),
        ("cluster.kind=pod", "pod"),
        ("cluster.volumes=[{claim:runs,path:runs}]", "path='runs' of runs; expected an absolute path"),
        ("cluster.volumes=[{claim:runs,path:/runs,sub_path:../other}]", "expected a relative path without"),
        ("cluster.volumes=[{claim:a,path:/runs},{claim:b,path:/runs}]", "/runs is mounted twice"),
        ("cluster.volumes=[{path:/runs}]", "claim"),
        ("cluster.volumes=[{claim:runs,path:/runs,size:1}]", "size"),
        ("cluster.tolerations=[{key:a,operator:Is}]", "expected Exists or Equal"),
        ("cluster.tolerations=[{key:a,value:b}]", "use operator=Equal"),
        ("cluster.tolerations=[{key:a,effect:Never}]", "expected NoSchedule"),
        ("cluster.secrets=[{env:W,secret:'',key:k}]", "give both"),
        ("cluster.secrets=[{env:a b,secret:s,key:k}]", "expected a name such as"),
        ("cluster.secrets=[{env:RAY_AUTH_TOKEN,secret:s,key:k}]", "set by the submission"),
        ("+cluster.environment={RAY_ADDRESS:x}", "RAY_ADDRESS is set by the submission"),
        ("+cluster.environment={HF_TOKEN:hunter2}", "plain text"),
        ("cluster.secrets=[{env:A,secret:s,key:k},{env:A,secret:t,key:k}]", "A: set by cluster.secrets and again"),
        ("cluster.ttl_s=-1", "ttl_s=-1"),
        ("cluster.request_timeout_s=0", "expected more than 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(override, expected):
    with pytest.raises((ValueError, HydraException, OmegaConfBaseException)) as caught:
        composed(override)
    said = f"{caught.value} {caught.value.__cause__}"
    assert expected in said
    assert "hunter2" not in said
