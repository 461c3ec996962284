"""Bad input ends before anything is started, with a message that says what was seen, expected, and to be done."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT, TINY, Train


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["step=3"], ["step", "steps"]),
        (["rollout.group_siez=3"], ["group_siez", "group_size"]),
        (["credit=discriminating"], ["discriminating", "discriminative", "uniform"]),
        (["steps=many"], ["steps", "many"]),
        (["steps=0"], ["steps=0", "expected 1 or more"]),
        (["rollout.prompts_per_step=31"], ["prompts_per_step=31", "updates_per_step=2", "use a multiple"]),
        (["rollout.group_size=1"], ["group_size=1", "expected 2 or more"]),
        (["credit.lambda_min=2"], ["lambda_min=2.0", "0 < lambda_min <= lambda_max"]),
        (["algorithm=ppo2"], ["ppo2", "dapo", "grpo"]),
        (["credit=forking", "credit.lambda_min=0.5"], ["lambda_min", "credit=discriminative"]),
        (["surrogate.epsilon_low=2"], ["surrogate.epsilon_low=2.0", "0 < epsilon_low < 1"]),
        (["reward=overlong"], ["overlong", "buffer=4096", "32"]),
        (["regularization.kl=-1"], ["regularization.kl=-1.0", "expected 0 or more"]),
        (["faults.max_restarts=-1"], ["faults.max_restarts=-1", "0 or more restarts"]),
        (["faults.deadlines.sync_s=0"], ["faults.deadlines.sync_s=0.0", "expected more than 0 s"]),
        (["seed=1,2"], ["seed=1,2 names several values", "--multirun"]),
        (["--multirun", "algorithm=delta,dapo", "sede=1,2"], ["sede", "seed"]),
        (["--multirun", "algorithm=delta,dap", "seed=1,2"], ["dap", "dapo"]),
        (["nodes=2"], ["nodes=2 with cluster=local", "delta-submit"]),
        (["cluster=slurm"], ["RAY_ADDRESS is not set", "delta-submit"]),
        (["rollout.tensor_parallel_size=2"], ["tensor_parallel_size=2 without GPUs", "Set it to 1"]),
        (["cluster.num_gpus=2"], ["learner.num_ranks=2", "at most 0", "fewer ranks"]),
        (["resume=maybe"], ["maybe", "auto", "never"]),
        (["data=jsonl"], ["data.path is empty", "data.path=problems.jsonl"]),
        (["data=jsonl", "data.path=nowhere.jsonl"], ["nowhere.jsonl", "No such file"]),
        (["model=pretrained", "model.path=./nowhere"], ["./nowhere is no model", "config.json"]),
        (["+learner.deepspeed.bf16.enabled=true"], ["learner.deepspeed.bf16", "decided by model.dtype"]),
        (["learner.offload.optimizer=disk"], ["disk", "none", "cpu", "nvme"]),
        (["learner.offload.optimizer=nvme"], ["learner.offload.nvme_path", "local disk"]),
        (["rollout.max_model_len=4096"], ["max_model_len=4096", "max_positions=2048", "lower it"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_settings_are_refused_with_advice(train: Train, tmp_path, overrides, expected):
    finished = train(*overrides, f"run_dir={tmp_path / 'run'}", timeout_s=120)
    assert finished.returncode != 0
    for text in expected:
        assert text in finished.stderr
    assert "Traceback" not in finished.stderr
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (['{"prompt": "1+1=", "answer": "2"}', "{broken"], ["line 2", "not JSON"]),
        (['{"prompt": "1+1="}'], ["line 1", "'answer'"]),
        (["[1, 2]"], ["line 1", "not an object"]),
        (["", "  "], ["holds no problem"]),
        (['{"prompt": "1+1=", "answer": "2"}'], ["1 different problem", "at least 2"]),
        (
            ['{"prompt": "1+1=", "answer": "2"}', json.dumps({"prompt": "9" * 3000, "answer": "1"})],
            ["longer than", "3000 tokens", "rollout.max_model_len", "data.overlong=drop"],
        ),
    ],
)
def test_bad_problem_files_are_refused_with_the_line(train: Train, tmp_path, lines, expected):
    path = tmp_path / "problems.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    finished = train("data=jsonl", f"data.path={path}", f"run_dir={tmp_path / 'run'}", timeout_s=120)
    assert finished.returncode == 2
    for text in expected:
        assert text in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_folder_with_a_run_is_not_overwritten(train: Train, tmp_path):
    (tmp_path / "config.yaml").write_text("steps: 1\n")
    finished = train(*TINY, "resume=never", f"run_dir={tmp_path}", timeout_s=120)
    assert finished.returncode == 2
    assert "already holds a run" in finished.stderr
    assert (tmp_path / "config.yaml").read_text() == "steps: 1\n"


def test_an_unwritable_folder_is_named(train: Train, tmp_path):
    (tmp_path / "file").write_text("")
    finished = train(*TINY, f"run_dir={tmp_path / 'file' / 'run'}", timeout_s=120)
    assert finished.returncode == 2
    assert "cannot be written" in finished.stderr


def test_a_dry_run_writes_nothing_and_asks_for_nothing_that_another_machine_may_have(
    train: Train, tmp_path, monkeypatch
):
    monkeypatch.setenv("CXX", "no-such-compiler")
    offload = ("learner.offload.optimizer=nvme", f"learner.offload.nvme_path={tmp_path / 'disk'}")
    settings = (*TINY, *offload, "learner.compile=true", f"run_dir={tmp_path / 'run'}")
    finished = train(*settings, "dry_run=true", timeout_s=120, check=True)
    assert "nothing was started" in finished.stdout
    assert list(tmp_path.iterdir()) == []
    owned = train(*settings, "dry_run=true", "+learner.deepspeed.bf16.enabled=true", timeout_s=120)
    assert "decided by model.dtype" in owned.stderr
    assert "no-such-compiler is not found" in train(*settings, timeout_s=120).stderr


def test_the_whole_configuration_can_be_shown(train: Train):
    finished = train("--cfg", "job", "credit=uniform", "data=jsonl", check=True)
    assert "prompts_per_step: 32" in finished.stdout
    assert "lambda_min" not in finished.stdout
    assert "seed: 1" in finished.stdout


@pytest.mark.parametrize("command", ["train", "verify"])
def test_a_configuration_is_read_before_anything_heavy_is_imported(command):
    heavy = {"ray", "vllm", "deepspeed", "transformers", "peft", "torch._dynamo"}
    program = f"import sys, launch.{command}, launch.overrides; print(sorted({heavy} & sys.modules.keys()))"
    shown = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"
