"""The whole command on the real stack: what a run leaves behind, that it repeats, resumes, and ends cleanly."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import TINY, Train, command
from tests.integration.conftest import Start
from tests.integration.runs import (
    RUN,
    STEPS,
    TIMEOUT_S,
    course,
    measured,
    processes_of,
    rows,
    update_stopped,
    wait_for_step,
    weights_hash,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]


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

    assert [evaluation["step"] for evaluation in measured(uninterrupted)] == [0, 3, 6, 7]

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
        timeout=TIMEOUT_S,
        env=environment,
    )
    assert "served: " in served.stdout, served.stderr[-2000:]


def test_ctrl_c_ends_with_a_checkpoint_and_nothing_left(
    uninterrupted, start: Start, train_in_fork: Train, tmp_path, shared_memory
):
    """That the run goes on from there as if nothing had been is the same for every signal: test_faults.py."""
    run_dir = tmp_path / "interrupted"
    process = start(run_dir, *RUN, "checkpoint.every=100")
    wait_for_step(run_dir, 1, process)
    with update_stopped(run_dir, process) as step:
        # Whatever memory is free beside the first.
        second = train_in_fork(*RUN, f"run_dir={run_dir}", "cluster.host_memory_gib=64")
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does on Ctrl-C
    assert second.returncode == 2
    assert f"in use by another run (process {process.pid} on " in second.stderr
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130, output[-3000:]
    assert "Go on with: delta-train" in output
    assert "Traceback" not in output
    assert len(rows(run_dir)) == step  # the update was finished, and none begun
    assert course(run_dir) == course(uninterrupted)[:step]
    assert weights_hash(run_dir, step) == weights_hash(uninterrupted, step)
    assert processes_of(run_dir) == []

    refused = train_in_fork(*RUN, f"run_dir={run_dir}", "learner.learning_rate=1e-3")
    assert refused.returncode == 2
    assert "learner.learning_rate was 0.0001, is 0.001" in refused.stderr
    assert "learning_rate: 0.0001" in (run_dir / "config.yaml").read_text()  # that of the run, not of the refused one


EVERYTHING = (
    *(name for name in RUN if not name.startswith(("steps=", "data.problems="))),
    "algorithm=delta_last_layer",
    "aggregation=sequence_mean",
    "importance=truncated",
    "regularization.kl=0.01",
    "regularization.entropy=0.001",
    "reward=overlong",
    "reward.parts.overlong.options.buffer=8",
    "rollout.max_refills=2",
    "steps=3",
)


def test_a_run_with_every_option_repeats_itself_from_a_checkpoint(train: Train, train_in_fork: Train, tmp_path):
    """Dynamic sampling takes a varying number of prompts, and the reference policy is not the checkpoint's."""
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    train(*EVERYTHING, f"run_dir={straight}", check=True)
    first = straight / "checkpoints" / "step-000001"
    finished = train(*EVERYTHING, f"resume_from={first}", f"run_dir={resumed}", check=True)
    assert f"resumed from {first}" in finished.stdout.replace("\n", "")
    assert course(resumed) == course(straight)[1:]
    assert len(course(resumed)) == 2
    assert weights_hash(resumed, 3) == weights_hash(straight, 3)

    for run_dir in (straight, resumed):
        filtered = [json.loads(line) for line in (run_dir / "filtered.jsonl").read_text().splitlines()]
        assert len(filtered) == sum(row["sampling/filtered"] for row in rows(run_dir)) > 0
        assert {line["reason"] for line in filtered} == {"equal rewards"}
    table = rows(straight)
    for row in table:
        assert row["sampling/groups"] > 8
        assert 0 < row["sampling/waste"] < 1
        assert 1 < row["sampling/rounds"] <= 3
        assert row["importance/mean"] == pytest.approx(1.0, abs=1e-4)
        assert row["policy/ref_kl"] >= 0
    assert table[-1]["policy/ref_kl"] > 0
    assert table[-1]["epoch"] == sum(row["sampling/groups"] for row in table) / 8000

    again = train_in_fork(*EVERYTHING, f"run_dir={resumed}", check=True)
    assert "is complete: all 3 steps are done" in again.stdout
    assert "starting engine" not in again.stdout


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """One of 64 MiB; a test asks for it before `start`, so that nobody is left writing when it is taken away."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=False)


def test_full_disk_keeps_the_last_checkpoint_and_says_what_to_do(small_disk, start: Start, train: Train):
    run_dir = small_disk / "run"
    process = start(run_dir, *RUN, "checkpoint.keep=2", "steps=400")
    wait_for_step(run_dir, 2, process)
    deadline = time.monotonic() + TIMEOUT_S
    while not list((run_dir / "checkpoints").glob("step-*/manifest.json")):  # it is written beside the next steps
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    with (small_disk / "filler").open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(b"\0" * 4096)
        except OSError:
            pass
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 2, output[-3000:]
    assert "No space left on device" in output
    assert "start the same command again" in output
    assert list((run_dir / "checkpoints").glob("step-*/manifest.json"))

    (small_disk / "filler").unlink()
    last = max(row["step"] for row in rows(run_dir))
    finished = train(*RUN, "checkpoint.keep=2", f"steps={last + 2}", f"run_dir={run_dir}", check=True)
    assert "resumed from" in finished.stdout
    assert [row["step"] for row in rows(run_dir)] == list(range(1, last + 3))


def test_a_run_scores_every_kind_of_task_and_sounds_the_alarm_when_nothing_is_ever_right(train: Train, tmp_path):
    """Whatever the rows look like. The small model can do none of it: all rewards are 0, and somebody is told."""
    problems = [
        {"prompt": "Was ist 2000+3000? — «fünftausend» 🙂", "answer": 5000},
        {"prompt": "Compute $\\frac{1}{2}+\\frac{1}{3}$.", "answer": "\\frac{5}{6}"},
        {"prompt": "Long: " + "lorem ipsum " * 30, "answer": "1,234.5", "id": "long"},
        {"prompt": "line\u2028separator\nand newline", "answer": "x^2+1"},
        *(
            {"prompt": f"{n}+1=", "task": "code", "tests": f"assert f({n}) == {n + 1}", "entry_point": "f"}
            for n in range(4)
        ),
        *({"prompt": f"{n}+2=", "task": "code", "tests": [{"input": "1", "output": f"{n}"}]} for n in range(4)),
        *({"prompt": f"{n}+3=", "task": "delta.rewards.multi_answer.judge", "answer": ["x", "y"]} for n in range(4)),
    ]
    path = tmp_path / "problems.jsonl"
    path.write_text("\n".join(json.dumps(problem, ensure_ascii=False) for problem in problems), encoding="utf-8")
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
    assert row["epoch"] >= 1  # every problem was there
