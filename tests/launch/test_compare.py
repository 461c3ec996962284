"""Small run folders with known numbers: what is read, left out, refused, computed and written."""

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from delta.errors import DataError
from launch import compare
from launch.command import EXIT_USER_ERROR

STEPS = 12
REWARDS = {"dapo": [0.2, 0.4, 0.6, 0.8], "delta": [0.5, 0.8, 0.9, 1.0]}
"""Each holds for three steps."""
SAMPLED = {"dapo": (0.50, 0.60, 0.55), "delta": (0.70, 0.75, 0.60)}
"""Of seeds 1, 2, 3."""


def curve(method: str, seed: int) -> list[float]:
    return [reward - 0.05 * seed for reward in REWARDS[method] for _ in range(3)]


def make_run(
    folder: Path,
    *,
    method: str,
    seed: int,
    label: bool = True,
    rows: int = STEPS,
    evaluated: bool = True,
    extra: str = "",
) -> None:
    folder.mkdir(parents=True)
    named = f"label: {method}\n" if label else ""
    config = f"steps: {STEPS}\nseed: {seed}\nrun_dir: {folder}\n{named}rollout:\n  group_size: 8\n{extra}"
    (folder / "config.yaml").write_text(config)
    metrics = [{"step": step, "reward/mean": reward} for step, reward in enumerate(curve(method, seed), start=1)]
    sampled = SAMPLED[method][seed - 1]
    evaluations = [{"step": 0, "accuracy": 0.1, "sampled_accuracy": 0.1}]
    if evaluated:
        evaluations.append({"step": STEPS, "accuracy": sampled + 0.1, "sampled_accuracy": sampled})
    for name, lines in (("metrics.jsonl", metrics[:rows]), ("evaluations.jsonl", evaluations)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def sweep(tmp_path) -> Path:
    for method in REWARDS:
        for seed in (1, 2, 3):
            make_run(tmp_path / "sweep" / method / f"seed{seed}", method=method, seed=seed, label=method == "delta")
    return tmp_path / "sweep"


def compared(*roots: Path, threshold: float = 0.75, baseline: str | None = None) -> compare.Comparison:
    return compare.compare(roots, threshold=threshold, baseline=baseline)


def failure(arguments: list[str], capsys) -> str:
    with pytest.raises(SystemExit) as ended:
        compare.main(arguments)
    assert ended.value.code == EXIT_USER_ERROR == 2
    return capsys.readouterr().err


def test_every_number_is_that_of_the_files(sweep):
    comparison = compared(sweep)
    delta, dapo = comparison.methods
    assert (delta.method, dapo.method, comparison.baseline) == ("delta", "dapo", "dapo")  # by label and by folder
    assert delta.seeds == dapo.seeds == (1, 2, 3)
    for method in (delta, dapo):
        sampled = np.array(SAMPLED[method.method])
        curves = np.array([curve(method.method, seed) for seed in (1, 2, 3)])
        for estimate, values in (
            (method.sampled_accuracy, sampled),
            (method.greedy_accuracy, sampled + 0.1),
            (method.reward_area, curves.mean(axis=1)),
            (method.reward_last_quarter, curves[:, -3:].mean(axis=1)),
        ):
            assert estimate.mean == pytest.approx(values.mean())
            assert estimate.standard_error == pytest.approx(values.std(ddof=1) / np.sqrt(3))
            assert estimate.n == 3
    # delta, less 0.05 per seed. Last five of steps 8, 9, 10 and 11: 0.82, 0.86, 0.90, 0.94. To reach: 0.80, 0.85, 0.90.
    assert delta.steps_to_threshold.mean == (8 + 9 + 10) / 3
    assert delta.steps_to_threshold.standard_error == pytest.approx(1 / np.sqrt(3))
    assert (dapo.steps_to_threshold.mean, dapo.seeds_below_threshold) == (None, (1, 2, 3))
    paired = delta.paired_sampled_accuracy
    assert paired.difference.mean == pytest.approx(0.4 / 3)
    assert paired.difference.standard_error == pytest.approx(np.std([0.2, 0.15, 0.05], ddof=1) / np.sqrt(3))
    assert paired.p_value == 0.25
    assert delta.paired_reward_area.difference.mean == pytest.approx(0.3)
    assert delta.paired_reward_area.difference.standard_error == pytest.approx(0.0, abs=1e-12)
    assert comparison.warnings == []
    assert comparison.left_out == {}


def test_censored_seeds_are_counted_and_not_averaged(sweep):
    delta, dapo = compared(sweep, threshold=0.62).methods
    # dapo's last five means end at 0.72, less 0.05 per seed: 0.67, 0.62, 0.57; seed 1 is at 0.63 one step earlier.
    assert dapo.seeds_below_threshold == (3,)
    assert (dapo.steps_to_threshold.mean, dapo.steps_to_threshold.n) == (11.5, 2)
    (_, _, row), _ = compare.tables(compared(sweep, threshold=0.62))
    assert row[-1] == "11.5 ± 0.5 (2/3)"
    assert delta.seeds_below_threshold == ()


def test_incomplete_runs_are_listed_with_the_reason(sweep):
    make_run(sweep / "stopped" / "seed1", method="delta", seed=1, rows=7)
    make_run(sweep / "unmeasured" / "seed1", method="delta", seed=1, evaluated=False)
    (sweep / "unborn" / "seed1").mkdir(parents=True)
    (sweep / "damaged").mkdir()
    (sweep / "damaged" / "config.yaml").write_text("steps: [")
    (sweep / "nameless").mkdir()
    (sweep / "nameless" / "config.yaml").write_text("steps: 12\n")
    make_run(sweep / "diverged" / "seed1", method="delta", seed=1)
    with (sweep / "diverged" / "seed1" / "metrics.jsonl").open("r+") as file:
        lines = file.read().replace('"reward/mean": 0.45', '"reward/mean": NaN')
        file.seek(0)
        file.write(lines)
    comparison = compared(sweep)
    assert [method.seeds for method in comparison.methods] == [(1, 2, 3)] * 2
    reasons = comparison.left_out
    assert reasons["sweep/stopped/seed1"] == "7 rows in metrics.jsonl, expected one for each of 12 steps"
    assert reasons["sweep/unmeasured/seed1"] == "no evaluation after step 12"
    assert reasons["sweep/unborn/seed1"] == "no config.yaml: it never began"
    assert "config.yaml is damaged" in reasons["sweep/damaged"]
    assert "'seed'" in reasons["sweep/nameless"]
    assert "not finite" in reasons["sweep/diverged/seed1"]
    assert len(reasons) == 6
    assert "- Left out: sweep/unmeasured/seed1, no evaluation after step 12." in compare.markdown(comparison)


def test_what_lies_within_a_run_is_no_run(sweep):
    make_run(sweep / "dapo" / "seed1" / "wandb" / "files", method="dapo", seed=3)
    make_run(sweep / ".trash" / "seed1", method="dapo", seed=3)
    assert len(compared(sweep).runs) == 6


def test_linked_runs_and_several_folders_are_found_once(sweep, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "dapo").symlink_to(sweep / "dapo")
    (sweep / "delta").rename(tmp_path / "delta")
    comparison = compared(tmp_path / "other", tmp_path / "delta", tmp_path / "other" / ".." / "delta")
    assert {run.folder for run in comparison.runs} == {
        f"{folder}/seed{seed}" for folder in ("other/dapo", "delta") for seed in (1, 2, 3)
    }


def test_pairs_are_of_common_seeds(sweep):
    (sweep / "dapo" / "seed2" / "config.yaml").unlink()
    comparison = compared(sweep)
    paired = comparison.methods[0].paired_sampled_accuracy
    assert paired.seeds == (1, 3)
    assert paired.difference.mean == pytest.approx((0.2 + 0.05) / 2)
    assert paired.p_value == 0.5
    assert comparison.warnings == [
        "not all means are over the same seeds, only paired differences are: dapo lacks 2",
    ]


def test_unequal_budgets_are_a_warning(sweep, tmp_path):
    make_run(
        sweep / "wide",
        method="delta",
        seed=1,
        label=False,
        extra="  max_refills: 3\ncredit:\n  share: 0.1\ndata:\n  n: 5\n",
    )
    (warning, _) = compared(sweep).warnings
    assert warning == "budgets were not equal, the runs differ in data.n (not set, 5)"


def test_files_are_written_and_shown(sweep, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    compare.main([str(sweep), "--threshold", "0.62"])
    shown = capsys.readouterr().out
    assert "0.683 ± 0.044" in shown
    assert "11.5 ± 0.5 (2/3)" in shown
    record = json.loads((sweep / "comparison.json").read_text())
    assert [method["method"] for method in record["methods"]] == ["delta", "dapo"]
    assert record["methods"][1]["seeds_below_threshold"] == [3]
    assert record["runs"][0]["rewards"] == pytest.approx(curve("dapo", 1))
    assert str(sweep) not in json.dumps(record)
    lines = (sweep / "comparison.md").read_text().splitlines()
    assert lines[2].startswith("| delta | 3 | 0.683 ± 0.044 | 0.783 ± 0.044 |")
    assert lines[7] == "| delta | 3 | +0.133 ± 0.044 | 0.2500 | +0.300 ± 0.000 | 0.2500 |"
    assert {line.count("|") for line in lines[:4]} == {8}
    assert (sweep / "comparison.png").stat().st_size > 10_000
    compare.main([str(sweep)])  # its own files do not disturb it


def test_single_seeds_short_runs_and_no_baseline_are_drawn_and_shown(sweep, tmp_path, capsys):
    (sweep / "dapo" / "seed1").rename(tmp_path / "lone")
    comparison = compared(sweep / "delta", tmp_path / "lone", baseline="delta")
    names = [run.method for run in comparison.runs]
    assert names == ["delta"] * 3 + [tmp_path.name]
    compare.draw(comparison, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
    compare.show(compared(sweep / "delta", tmp_path / "lone"), Console(width=160))
    shown = capsys.readouterr().out
    assert "0.500 " in shown
    assert "minus" not in shown


def test_bars_and_brackets_in_a_name_stay_text(sweep, capsys):
    for seed in (1, 2, 3):
        config = sweep / "delta" / f"seed{seed}" / "config.yaml"
        config.write_text(config.read_text().replace("label: delta", 'label: "a|[red]b"'))
    comparison = compared(sweep)
    assert "| a\\|[red]b | 3 |" in compare.markdown(comparison)
    compare.show(comparison, Console(width=160))
    assert "a|[red]b" in capsys.readouterr().out


def test_a_folder_that_does_not_exist_is_an_error(tmp_path, capsys):
    assert "nowhere is not a folder" in failure([str(tmp_path / "nowhere")], capsys)


def test_no_run_is_an_error(tmp_path, capsys):
    assert "found no complete run. Expected" in failure([str(tmp_path)], capsys)


def test_one_method_is_an_error_that_lists_what_was_left_out(sweep, capsys):
    for seed in (1, 2, 3):
        (sweep / "delta" / f"seed{seed}" / "evaluations.jsonl").unlink()
    error = failure([str(sweep)], capsys)
    assert "found only one method, dapo." in error
    assert "left out: sweep/delta/seed2, no evaluation after step 12" in error


def test_an_unknown_baseline_is_an_error(sweep, capsys):
    error = failure([str(sweep), "--baseline", "grpo"], capsys)
    assert "--baseline grpo: no complete run of it; expected one of dapo, delta." in error


def test_a_folder_that_cannot_be_written_is_an_error(sweep, capsys):
    (sweep / "comparison.md").mkdir()
    assert f"{sweep} cannot be written" in failure([str(sweep)], capsys)


def test_two_runs_of_one_method_and_seed_are_refused(sweep):
    make_run(sweep / "again" / "seed1", method="delta", seed=1)
    with pytest.raises(DataError, match=r"again/seed1 and sweep/delta/seed1 are both delta with seed 1"):
        compared(sweep)


def test_help_says_what_a_run_is(capsys):
    with pytest.raises(SystemExit) as ended:
        compare.main(["--help"])
    assert ended.value.code == 0
    assert "anywhere below FOLDER" in capsys.readouterr().out
