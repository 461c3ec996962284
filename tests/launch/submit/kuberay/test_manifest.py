"""What is rendered: golden files, and what must be true of every one of them.

After a change that is meant: python -m tests.launch.submit.kuberay.test_manifest --write
"""

import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from launch.submit.kuberay import rules
from launch.submit.kuberay.backend import KubeRayBackend
from launch.submit.kuberay.config import SubmissionMode
from launch.submit.kuberay.manifest import build, is_image
from launch.submit.kuberay.schema import closed_schema, problems, read_definition
from tests.launch.submit.kuberay.plans import CRDS, GOLDEN, make_config, make_plan

FOLDER = Path(__file__).parent / "golden"


def rendered(name: str) -> str:
    plan, config = GOLDEN[name]
    (text,) = KubeRayBackend(config).render(plan).values()
    return text


def pods(manifest: dict) -> list[dict]:
    cluster = manifest["spec"].get("rayClusterSpec", manifest["spec"])
    groups = [cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])]
    return [group["template"]["spec"] for group in groups]


@pytest.mark.parametrize("name", GOLDEN)
def test_rendered_text_is_the_recorded_one(name):
    assert rendered(name) == (FOLDER / f"{name}.yaml").read_text()


def test_every_recording_is_rendered():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(GOLDEN)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_reader_of_yaml_finds_what_was_built(name):
    plan, config = GOLDEN[name]
    assert yaml.safe_load(rendered(name)) == build(plan, config)


@pytest.mark.parametrize("name", GOLDEN)
def test_rules_find_nothing(name):
    assert rules.problems(build(*GOLDEN[name])) == []


@pytest.mark.skipif(not CRDS.is_dir(), reason="the folder with KubeRay's definitions is not here")
@pytest.mark.parametrize("name", GOLDEN)
def test_kuberays_own_schema_finds_nothing(name):
    manifest = build(*GOLDEN[name])
    assert list(problems(manifest, closed_schema(read_definition(CRDS, manifest["kind"])))) == []


@pytest.mark.parametrize("name", GOLDEN)
def test_no_value_of_a_secret_is_in_the_text(name):
    references = {"WANDB_API_KEY", "HF_TOKEN"}
    for pod in pods(build(*GOLDEN[name])):
        found = {entry["name"]: entry for entry in pod["containers"][0]["env"] if entry["name"] in references}
        assert found.keys() == references
        assert all(set(entry) == {"name", "valueFrom"} for entry in found.values())


def test_the_head_is_a_node_of_the_run():
    assert "workerGroupSpecs" not in build(make_plan(nodes=1), make_config())["spec"]["rayClusterSpec"]
    (workers,) = build(make_plan(nodes=4), make_config())["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert [workers[key] for key in ("replicas", "minReplicas", "maxReplicas")] == [3, 3, 3]


def test_pods_may_take_as_long_to_end_as_a_checkpoint_and_a_margin():
    plan = replace(make_plan(nodes=2), restarts=replace(make_plan().restarts, grace_s=99.5))
    manifest = build(plan, make_config(grace_margin_s=20))
    assert [pod["terminationGracePeriodSeconds"] for pod in pods(manifest)] == [120, 120]
    head = {entry["name"]: entry.get("value") for entry in pods(manifest)[0]["containers"][0]["env"]}
    assert head["RAY_JOB_STOP_WAIT_TIME_S"] == "120"


def test_a_run_that_is_not_requeued_is_not_started_again():
    plan = make_plan(restarts=replace(make_plan().restarts, requeue=False))
    assert build(plan, make_config())["spec"]["backoffLimit"] == 0


@pytest.mark.parametrize("mode", SubmissionMode)
def test_the_command_reaches_the_driver_word_by_word(mode, tmp_path):
    """HTTPMode hands the entrypoint to a shell; the other modes to a shell whose words Ray joins for the next one."""
    plan = make_plan(command=("delta-train", "a=[1, 'x y']", 'b="$HOME"', "c=*", "d=\\n;exit 3", "e=ü"))
    entrypoint = build(plan, make_config(submission_mode=mode))["spec"]["entrypoint"]
    show = f"{shlex.quote(sys.executable)} -c 'import sys; print(ascii(sys.argv[1:]))'"
    before, after = entrypoint.split(" -- ", 1)
    assert before == "python -m launch.submit.kuberay.attempt /runs/first/job"
    if mode is not SubmissionMode.HTTPMode:
        script = f"{shlex.quote(sys.executable)} -c 'import shlex, sys; print(shlex.join(sys.argv[1:]))' {after}"
        after = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    said = subprocess.run(["sh", "-c", f"{show} {after}"], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == ascii(list(plan.command))


@pytest.mark.parametrize(
    "image",
    [
        "delta",
        "delta:1.0",
        "registry.example/team/delta",
        "registry.example:5000/a/b_c/d-e:v1.2_3",
        f"r.io/x@sha256:{'0' * 64}",
    ],
)
def test_names_of_images(image):
    assert is_image(image)


@pytest.mark.parametrize(
    "image", ["", "Delta:1", "a b", "delta:", "delta:1:2", "/delta", "delta@sha256:12", "x/:1", "-"]
)
def test_what_is_no_name_of_an_image(image):
    assert not is_image(image)


def main() -> None:
    """Record all anew."""
    if sys.argv[1:] != ["--write"]:
        raise SystemExit("usage: python -m tests.launch.submit.kuberay.test_manifest --write")
    for name in GOLDEN:
        (FOLDER / f"{name}.yaml").write_text(rendered(name))


if __name__ == "__main__":
    main()
