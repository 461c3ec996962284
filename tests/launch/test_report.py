"""The summary says what the files say; the plots are drawn; the terminal shows examples."""

import json

from rich.console import Console

from launch import report


def row(step: int, seconds: float) -> dict:
    return {
        "step": step,
        "reward/mean": 0.5,
        "rollout/length_mean": 20.0,
        "policy/entropy": 0.1,
        "policy/mismatch_max": 1e-6,
        "time/step_s": seconds,
        **{f"time/{phase}_s": seconds / 10 for phase in report.PHASES},
    }


def evaluation(step: int, accuracy: float, *, right: bool) -> dict:
    answer = {"prompt": "1+1=", "expected": "2", "response": "1+1=2\n#### 2", "correct": right}
    return {
        "step": step,
        "problems": 1,
        "accuracy": accuracy,
        "accuracy_interval": [accuracy - 0.1, accuracy + 0.1],
        "sampled_accuracy": accuracy / 2,
        "sampled_accuracy_interval": [0.0, 1.0],
        "reasoned_share": 1.0,
        "length_mean": 20.0,
        "answers": [answer],
    }


ROWS = [row(step, 9.0 if step <= 3 else float(step)) for step in range(1, 7)]
EVALUATIONS = [evaluation(0, 0.4, right=False), evaluation(6, 0.8, right=True)]


def test_summary_has_before_after_and_medians_without_warm_up():
    summary = report.summarize(ROWS, EVALUATIONS, seed=5)
    assert summary["accuracy_before"] == 0.4
    assert summary["accuracy_after"] == 0.8
    assert summary["accuracy_after_interval"] == [0.8 - 0.1, 0.8 + 0.1]
    assert summary["sampled_accuracy_after"] == 0.4
    assert summary["steps"] == 6
    assert summary["median_step_s"] == 5.0
    assert summary["phases"]["update_s"] == 0.5
    assert summary["seed"] == 5
    assert "torch" in summary["versions"]


def test_files_are_written_and_shown(tmp_path, capsys):
    for name, lines in (("metrics.jsonl", ROWS), ("evaluations.jsonl", EVALUATIONS)):
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    fault = {"time": "", "phase": "update", "who": "learner rank 1", "cause": "killed"}
    faults = [{**fault, "step": step, "action": f"restart {step} of 9"} for step in range(1, 5)]
    (tmp_path / "faults.jsonl").write_text("".join(json.dumps(line) + "\n" for line in faults))
    report.write(tmp_path, seed=5)
    assert json.loads((tmp_path / "summary.json").read_text())["steps"] == 6
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    report.show(tmp_path, Console(width=120))
    shown = capsys.readouterr().out
    assert "before wrong: 1+1=2 ⏎ #### 2" in shown
    assert "after  right: 1+1=2 ⏎ #### 2" in shown
    assert str(tmp_path) in shown
    assert "faults: 4 (1 earlier; learner rank 1 in update after step 2: restart 2 of 9; " in shown.replace("\n", " ")


def test_a_run_without_a_step_of_its_own_has_a_summary_too(tmp_path, capsys):
    """It began at the checkpoint of another run that had made them all."""
    (tmp_path / "evaluations.jsonl").write_text(json.dumps(evaluation(6, 0.8, right=True)) + "\n")
    report.write(tmp_path, seed=5)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["steps"], summary["median_step_s"]) == (6, None)
    report.show(tmp_path, Console(width=120))
    assert f"files in {tmp_path}" in capsys.readouterr().out.replace("\n", "")
