"""The whole command on the real stack: what a run leaves behind, that it repeats, resumes, and ends cleanly."""

import json
import os
import signal
import subprocess
import time

import pytest
from omegaconf import OmegaConf

from tests.conftest import TINY, Train, command
from tests.integration.runs import (
    RUN,
    STEPS,
    course,
    processes_of,
    rows,
    start,
    wait_for_step,
    weights_hash,
)
from workers.controller.console import RunConsole
from workers.warm_start.config import WarmStartModelConfig
from workers.warm_start.make import warm_start

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_run_folder_holds_what_is_promised(uninterrupted):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    table = rows(uninterrupted)
    assert [row["step"] for row in table] == list(range(1, STEPS + 1))
    for row in table:
        for name, value in row.items():
            assert isinstance(value, int | float), name
            if name.startswith("time/"):
                assert name.endswith("_s")
                assert value >= 0
        assert row["policy/mismatch_max"] < 1e-3
        assert row["policy_version"] == row["step"]
        assert row["learner/grad_norm"] > 0
        phases = sum(row[f"time/{name}_s"] for name in ("generate", "score", "old_pass", "credit", "update", "sync"))
        assert phases <= row["time/step_s"]

    summary = json.loads((uninterrupted / "summary.json").read_text())
    assert summary["steps"] == STEPS
    assert summary["seed"] == 5
    for when in ("before", "after"):
        low, high = summary[f"accuracy_{when}_interval"]
        assert 0 <= low <= summary[f"accuracy_{when}"] <= high <= 1
    assert summary["median_step_s"] > 0
    assert {"generate_s", "old_pass_s", "update_s", "sync_s"} <= summary["phases"].keys()
    assert summary["versions"]["torch"].startswith("2.13")

    evaluations = [json.loads(line) for line in (uninterrupted / "evaluations.jsonl").read_text().splitlines()]
    assert [evaluation["step"] for evaluation in evaluations] == [0, 3, 6, 7]

    settings = (uninterrupted / "config.yaml").read_text()
    assert "lambda_max: 1.2" in settings
    assert "${" not in settings
    assert (uninterrupted / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((uninterrupted / "wandb").glob("offline-run-*/*.wandb"))
    assert list((uninterrupted / "tensorboard").glob("events.*"))
    assert len({weights_hash(uninterrupted, step) for step in range(1, STEPS + 1)}) == STEPS

    model = AutoModelForCausalLM.from_pretrained(uninterrupted / "export")
    tokenizer = AutoTokenizer.from_pretrained(uninterrupted / "export")
    prompt = tokenizer("12+34+41=", return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=4, do_sample=False)
    assert answer.shape[1] > prompt["input_ids"].shape[1]


def test_nothing_is_left_running(uninterrupted):
    assert processes_of(uninterrupted) == []


def test_vllm_serves_the_export(uninterrupted):
    script = (
        "import sys; from vllm import LLM, SamplingParams\n"
        "llm = LLM(sys.argv[1], dtype='float32', enforce_eager=True, max_model_len=256)\n"
        "print('served:', len(llm.generate('12+34+41=', SamplingParams(max_tokens=5))[0].outputs[0].token_ids))\n"
    )
    environment = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}
    served = subprocess.run(
        [command([])[0], "-c", script, str(uninterrupted / "export")],
        capture_output=True,
        text=True,
        timeout=240,
        env=environment,
    )
    assert "served: " in served.stdout, served.stderr[-2000:]


def test_ctrl_c_ends_with_a_checkpoint_and_nothing_left(uninterrupted, train: Train, tmp_path):
    run_dir = tmp_path / "interrupted"
    shared_memory = set(os.listdir("/dev/shm"))
    process = start(run_dir, *RUN, "checkpoint.every=100")
    wait_for_step(run_dir, 1, process)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does on Ctrl-C
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output[-3000:]
    assert "Go on with: delta-train" in output
    assert "Traceback" not in output
    done = max(row["step"] for row in rows(run_dir))
    assert weights_hash(run_dir, done)
    assert processes_of(run_dir) == []
    assert set(os.listdir("/dev/shm")) <= shared_memory

    refused = train(*RUN, f"run_dir={run_dir}", "learner.learning_rate=1e-3")
    assert refused.returncode == 2
    assert "learner.learning_rate was 0.0001, is 0.001" in refused.stderr

    train(*RUN, f"run_dir={run_dir}", check=True)
    assert course(run_dir) == course(uninterrupted)


def test_another_seed_is_another_run(uninterrupted, train: Train, tmp_path):
    """With the same model: other problems, other samples."""
    settings = OmegaConf.load(uninterrupted / "config.yaml")
    model = warm_start(WarmStartModelConfig(**settings.model), seed=settings.seed, console=RunConsole(quiet=True))
    overrides = [name for name in RUN if not name.startswith("model.")]
    train(
        *overrides,
        "model=pretrained",
        f"model.path={model}",
        "seed=4",
        "steps=1",
        f"run_dir={tmp_path / 'other'}",
        check=True,
    )
    assert course(tmp_path / "other")[0] != course(uninterrupted)[0]


EVERYTHING = (
    *(name for name in RUN if not name.startswith(("steps=", "checkpoint.", "data.problems="))),
    "algorithm=delta_last_layer",
    "aggregation=sequence_mean",
    "importance=truncated",
    "regularization.kl=0.01",
    "regularization.entropy=0.001",
    "reward=overlong",
    "reward.parts.overlong.options.buffer=8",
    "rollout.max_refills=2",
    "checkpoint.every=1",
)


def test_a_run_with_every_option_repeats_itself_across_a_pause(train: Train, tmp_path):
    """Dynamic sampling takes a varying number of prompts, and the reference policy is not the checkpoint's."""
    train(*EVERYTHING, "steps=3", f"run_dir={tmp_path / 'straight'}", check=True)
    paused = tmp_path / "paused"
    train(*EVERYTHING, "steps=1", f"run_dir={paused}", check=True)
    resumed = train(*EVERYTHING, "steps=3", f"run_dir={paused}", check=True)
    assert "resumed from" in resumed.stdout
    straight = rows(tmp_path / "straight")
    assert course(paused) == course(tmp_path / "straight")
    assert weights_hash(paused, 3) == weights_hash(tmp_path / "straight", 3)

    filtered = [json.loads(line) for line in (paused / "filtered.jsonl").read_text().splitlines()]
    assert len(filtered) == sum(row["sampling/filtered"] for row in rows(paused)) > 0
    assert {line["reason"] for line in filtered} == {"equal rewards"}
    for row, repeated in zip(straight, rows(paused), strict=True):
        assert row["sampling/groups"] == repeated["sampling/groups"] > 8
        assert 0 < row["sampling/waste"] < 1
        assert 1 < row["sampling/rounds"] <= 3
        assert row["importance/mean"] == pytest.approx(1.0, abs=1e-4)
        assert row["policy/ref_kl"] == repeated["policy/ref_kl"] >= 0
    assert straight[-1]["policy/ref_kl"] > 0
    assert straight[-1]["epoch"] == sum(row["sampling/groups"] for row in straight) / 8000

    again = train(*EVERYTHING, "steps=3", f"run_dir={paused}", check=True)
    assert "is complete: all 3 steps are done" in again.stdout
    assert "starting engine" not in again.stdout


def test_any_jsonl_trains(train: Train, tmp_path):
    problems = [
        {"prompt": "Was ist 2+3? — «fünf» 🙂", "answer": 5},
        {"prompt": "Compute $\\frac{1}{2}+\\frac{1}{3}$.", "answer": "\\frac{5}{6}"},
        {"prompt": "Long: " + "lorem ipsum " * 30, "answer": "1,234.5", "id": "long"},
        {"prompt": "line\u2028separator\nand newline", "answer": "x^2+1"},
        *({"prompt": f"{a}+{a}=", "answer": str(2 * a)} for a in range(20)),
    ]
    path = tmp_path / "problems.jsonl"
    path.write_text("\n".join(json.dumps(problem, ensure_ascii=False) for problem in problems), encoding="utf-8")
    overrides = [name for name in TINY if name != "data.held_out=20"]
    run_dir = tmp_path / "run"
    train(*overrides, "data=jsonl", f"data.path={path}", "steps=3", f"run_dir={run_dir}", check=True)
    assert len(rows(run_dir)) == 3
    assert all(row["reward/error"] == row["reward/timeout"] == 0 for row in rows(run_dir))


def test_full_disk_keeps_the_last_checkpoint_and_says_what_to_do(train: Train, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        run_dir = disk / "run"
        process = start(run_dir, *RUN, "checkpoint.keep=2", "steps=400")
        wait_for_step(run_dir, 2, process)
        deadline = time.monotonic() + 120
        while not list((run_dir / "checkpoints").glob("step-*/manifest.json")):  # it is written beside the next steps
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        with (disk / "filler").open("wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(b"\0" * 4096)
            except OSError:
                pass
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 2, output[-3000:]
        assert "No space left on device" in output
        assert "start the same command again" in output
        assert list((run_dir / "checkpoints").glob("step-*/manifest.json"))

        (disk / "filler").unlink()
        last = max(row["step"] for row in rows(run_dir))
        finished = train(*RUN, "checkpoint.keep=2", f"steps={last + 2}", f"run_dir={run_dir}", check=True)
        assert "resumed from" in finished.stdout
        assert [row["step"] for row in rows(run_dir)] == list(range(1, last + 3))
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def test_a_run_scores_every_kind_of_task_and_sounds_the_alarm_when_nothing_is_ever_right(train: Train, tmp_path):
    """The small model answers sums, so programs and boxes are never right: all rewards are 0, and somebody is told."""
    problems = [
        *(
            {"prompt": f"{n}+1=", "task": "code", "tests": f"assert f({n}) == {n + 1}", "entry_point": "f"}
            for n in range(20)
        ),
        *({"prompt": f"{n}+2=", "task": "code", "tests": [{"input": "1", "output": f"{n}"}]} for n in range(20)),
        *({"prompt": f"{n}+3=", "task": "delta.rewards.multi_answer.judge", "answer": ["x", "y"]} for n in range(20)),
    ]
    path = tmp_path / "problems.jsonl"
    path.write_text("\n".join(json.dumps(problem) for problem in problems))
    overrides = [name for name in TINY if name != "data.held_out=20"]
    finished = train(
        *overrides,
        "steps=2",
        "data=jsonl",
        f"data.path={path}",
        "data.held_out=5",
        "verifier.constant_reward_steps=2",
        f"run_dir={tmp_path / 'run'}",
        check=True,
    )
    assert "alarm: every answer of the last 2 steps had the reward 0" in finished.stdout
    for row in rows(tmp_path / "run"):
        assert row["reward/error"] == row["reward/timeout"] == row["verifier/failed"] == 0
        assert row["reward/wrong"] + row["reward/unparsable"] == 1
        assert row["reward_part/correctness"] == row["reward/mean"] == 0
