"""The whole command as it is used: its exit code, its table and its JSON."""

import json
import subprocess
import sys

import pytest

from launch.doctor.catalogue import LANES
from tests.conftest import ROOT
from tests.launch.doctor.test_submission import PODS

NAMES = [examination.name for lane in LANES for examination in lane]


def doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "launch.doctor", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.ray
@pytest.mark.slow
def test_the_laptop_run_can_run_here(tmp_path):
    finished = doctor("experiment=laptop", f"run_dir={tmp_path}/run", "--json")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    told = json.loads(finished.stdout)
    assert told["can_run"] is True
    checks = {check["name"]: check for check in told["checks"]}
    assert list(checks) == NAMES
    for tried in ("all-reduce", "generation", "known verdict", "data", "memory", "model"):
        assert checks[tried]["status"] == "ok", checks[tried]
    assert "nats from transformers" in checks["generation"]["seen"]
    assert not (tmp_path / "run").exists()


def test_what_cannot_run_is_said_in_a_table_and_by_the_exit_code(tmp_path):
    (tmp_path / "file").write_text("")
    finished = doctor("--fast", f"run_dir={tmp_path}/file/run", "data=jsonl", "data.path=nowhere.jsonl")
    assert finished.returncode == 2
    assert "cannot run like this" in finished.stdout
    assert "run folder, data" in finished.stdout
    assert "nowhere.jsonl" in finished.stdout
    assert "--fast: it starts processes" in finished.stdout
    assert "Traceback" not in finished.stdout + finished.stderr


@pytest.mark.parametrize(
    ("arguments", "words"), [(["steps=many"], ["steps", "many"]), (["-m", "seed=1,2"], ["one run"])], ids=str
)
def test_what_is_no_configuration_is_refused(arguments, words):
    finished = doctor(*arguments)
    assert finished.returncode == 2
    assert all(word in finished.stderr for word in words)
    assert "Traceback" not in finished.stderr


def test_what_pods_have_need_not_be_here(server):
    finished = doctor("--fast", "--json", *PODS)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    checks = {check["name"]: check for check in json.loads(finished.stdout)["checks"]}
    assert checks["submission"]["status"] == "warning"
    for name in ("run folder", "model", "memory", "data", "known verdict", "model hub"):
        assert checks[name]["seen"] == "not here; checked when the run starts"
    refused = doctor("--fast", *PODS, "faults.grace_s=5")
    assert refused.returncode == 2
    assert "expected cluster.grace_s" in " ".join(refused.stdout.split())
