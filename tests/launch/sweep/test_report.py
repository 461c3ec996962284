"""Small run folders with known numbers: what is read, left out, refused, computed and written."""

import csv
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from delta.errors import ConfigError, DataError, StorageError
from launch.sweep import report
from launch.sweep.config import ReportConfig
from tests.conftest import Train
from tests.launch.conftest import in_forks
from tests.launch.sweep.made_runs import SAMPLED, STEP_S, STEPS, TOKENS, curve, ended, make_run, make_sweep


@pytest.fixture
def folder(tmp_path) -> Path:
    """Complete runs that no launcher knows, by label and by the name of their folder."""
    for method in SAMPLED:
        for seed in (1, 2, 3):
            make_run(tmp_path / "sweep" / method / f"seed{seed}", method=method, seed=seed, label=method == "delta")
    return tmp_path / "sweep"


def reported(folder: Path, *, threshold: float = 0.75, baseline: str = "") -> report.Report:
    return report.report_on(folder, threshold=threshold, baseline=baseline)


def states(found: report.Report) -> dict[str, str]:
    return {one.member.name: one.status.text for one in found.members}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_number_is_that_of_the_files(folder):
    found = reported(folder)
    delta, dapo = found.methods
    assert (delta.method, dapo.method, found.baseline) == ("delta", "dapo", "dapo")
    assert delta.seeds == dapo.seeds == (1, 2, 3)
    for method in (delta, dapo):
        sampled = np.array(SAMPLED[method.method])
        curves = np.array([curve(method.method, seed) for seed in (1, 2, 3)])
        for estimate, values in (
            (method.sampled_accuracy, sampled),
            (method.greedy_accuracy, sampled + 0.1),
            (method.best_sampled_accuracy, sampled + 0.05),
            (method.best_greedy_accuracy, sampled + 0.15),
            (method.best_step, np.full(3, STEPS // 2)),
            (method.hours, np.full(3, STEPS * STEP_S * 2 * 4 / 3600)),  # two nodes of four CPUs
            (method.tokens, np.full(3, STEPS * TOKENS)),
            (method.reward_area, curves.mean(axis=1)),
            (method.reward_last_quarter, curves[:, -3:].mean(axis=1)),
        ):
            assert estimate.mean == pytest.approx(values.mean())
            assert estimate.standard_error == pytest.approx(values.std(ddof=1) / np.sqrt(3), abs=1e-12)
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
    assert found.warnings == []
    assert set(states(found).values()) == {"complete"}


def test_censored_seeds_are_counted_and_not_averaged(folder):
    delta, dapo = reported(folder, threshold=0.62).methods
    # dapo's last five means end at 0.72, less 0.05 per seed: 0.67, 0.62, 0.57; seed 1 is at 0.63 one step earlier.
    assert dapo.seeds_below_threshold == (3,)
    assert (dapo.steps_to_threshold.mean, dapo.steps_to_threshold.n) == (11.5, 2)
    _, _, (_, _, row), _ = report.tables(reported(folder, threshold=0.62))
    assert row[-1] == "11.5 ± 0.5 (2/3)"
    assert delta.seeds_below_threshold == ()


def test_each_member_of_a_sweep_is_listed_with_its_state(tmp_path):
    sweep = make_sweep(tmp_path / "sweep")
    first, second, third, fourth, fifth, _ = sweep.members
    for member in (first, fourth):
        make_run(member.run_dir, method=member.choices["algorithm"], seed=int(member.choices["seed"]))
    make_run(second.run_dir, method="dapo", seed=2, rows=7)
    ended(second, 75, folder=sweep.folder)
    ended(third, 2, "model.path=nowhere is no model", folder=sweep.folder)
    make_run(fifth.run_dir, method="delta", seed=2, rows=3)
    found = reported(sweep.folder)
    assert list(states(found).values()) == [
        "complete",
        "preempted at step 7",
        "failed: model.path=nowhere is no model",
        "complete",
        "incomplete at step 3: 3 rows in metrics.jsonl, expected one for each of 12 steps",
        "waiting: not begun",
    ]
    assert [(method.method, method.seeds) for method in found.methods] == [("delta", (1,)), ("dapo", (1,))]
    _, (_, delta, dapo), *_ = report.tables(found)
    assert (delta[:2], dapo[:2]) == (["delta", "1/3"], ["dapo", "1/3"])
    report.write(found)
    members = rows_of(sweep.folder / "members.csv")
    assert [row["state"] for row in members].count("complete") == 2
    assert (members[1]["step"], members[1]["sampled_accuracy"]) == ("7", "")


def test_a_sweep_that_has_moved_is_found_in_its_new_place(tmp_path):
    sweep = make_sweep(tmp_path / "sweep", seeds=(1,))
    for member in sweep.members:
        make_run(member.run_dir, method=member.choices["algorithm"], seed=1)
    sweep.folder.rename(tmp_path / "moved")
    assert set(states(reported(tmp_path / "moved")).values()) == {"complete"}


def test_a_sweep_without_a_complete_member_is_reported_too(tmp_path):
    sweep = make_sweep(tmp_path / "sweep")
    found = reported(sweep.folder)
    assert report.write(found) == ["members.csv", "sweep.md"]
    assert "No member is complete yet" in (sweep.folder / "sweep.md").read_text()


def test_incomplete_runs_are_listed_with_the_reason(folder):
    make_run(folder / "stopped" / "seed1", method="delta", seed=1, rows=7)
    make_run(folder / "unmeasured" / "seed1", method="delta", seed=1, evaluated=False)
    (folder / "unborn" / "seed1").mkdir(parents=True)
    (folder / "damaged").mkdir()
    (folder / "damaged" / "config.yaml").write_text("steps: [")
    (folder / "nameless").mkdir()
    (folder / "nameless" / "config.yaml").write_text("steps: 12\n")
    make_run(folder / "diverged" / "seed1", method="delta", seed=1)
    with (folder / "diverged" / "seed1" / "metrics.jsonl").open("r+") as file:
        lines = file.read().replace('"reward/mean": 0.45', '"reward/mean": NaN')
        file.seek(0)
        file.write(lines)
    found = reported(folder)
    assert [method.seeds for method in found.methods] == [(1, 2, 3)] * 2
    told = {name: text for name, text in states(found).items() if text != "complete"}
    assert told["stopped/seed1"].endswith("at step 7: 7 rows in metrics.jsonl, expected one for each of 12 steps")
    assert told["unmeasured/seed1"].endswith("no evaluation after step 12")
    assert told["unborn/seed1"] == "waiting: not begun"
    assert "config.yaml is damaged" in told["damaged"]
    assert "'seed'" in told["nameless"]
    assert "not finite" in told["diverged/seed1"]
    assert len(told) == 6


def test_what_lies_within_a_run_is_no_run(folder):
    make_run(folder / "dapo" / "seed1" / "wandb" / "files", method="dapo", seed=3)
    make_run(folder / ".trash" / "seed1", method="dapo", seed=3)
    assert len(reported(folder).runs) == 6


def test_linked_runs_are_found(folder, tmp_path):
    (tmp_path / "other").mkdir()
    for method in SAMPLED:
        (tmp_path / "other" / method).symlink_to(folder / method)
    assert set(states(reported(tmp_path / "other"))) == {
        f"{method}/seed{seed}" for method in SAMPLED for seed in (1, 2, 3)
    }


def test_pairs_are_of_common_seeds(folder):
    (folder / "dapo" / "seed2" / "config.yaml").unlink()
    found = reported(folder)
    paired = found.methods[0].paired_sampled_accuracy
    assert paired.seeds == (1, 3)
    assert paired.difference.mean == pytest.approx((0.2 + 0.05) / 2)
    assert paired.p_value == 0.5
    assert found.warnings == ["not all means are over the same seeds, only paired differences are: dapo lacks 2"]


def test_unequal_budgets_are_a_warning_unless_they_are_what_is_swept(folder, tmp_path):
    settings = {"rollout.max_refills": 3, "credit.share": 0.1, "data.n": 5}
    make_run(folder / "wide", method="delta", seed=1, label=False, settings=settings)
    (warning, _) = reported(folder).warnings
    assert warning == "budgets were not equal, the runs differ in data.n (not set, 5)"
    sweep = make_sweep(tmp_path / "other", seeds=(1,))
    for member in sweep.members:
        own = {"algorithm.n": member.name, "model.n": member.name}
        make_run(member.run_dir, method=member.choices["algorithm"], seed=1, settings=own)
    (warning,) = reported(sweep.folder).warnings
    assert "model.n" in warning
    assert "algorithm.n" not in warning


def test_files_are_written_and_shown(folder, capsys, monkeypatch):
    found = reported(folder, threshold=0.62)
    assert report.write(found) == ["sweep.csv", "members.csv", "sweep.md", "sweep.png"]
    report.show(found, Console(width=160))
    shown = capsys.readouterr().out
    assert "0.683 ± 0.044" in shown
    assert "11.5 ± 0.5 (2/3)" in shown
    delta, dapo = rows_of(folder / "sweep.csv")
    assert (delta["method"], dapo["method"], dapo["runs_below_threshold"]) == ("delta", "dapo", "1")
    assert float(delta["sampled_accuracy"]) == pytest.approx(np.mean(SAMPLED["delta"]))
    spread = np.std(SAMPLED["delta"], ddof=1) / np.sqrt(3)
    assert float(delta["sampled_accuracy_standard_error"]) == pytest.approx(spread)
    assert float(delta["sampled_accuracy_minus_dapo_p"]) == 0.25
    assert (dapo["sampled_accuracy_minus_dapo"], delta["hours_of"]) == ("", "CPU")
    lines = (folder / "sweep.md").read_text().splitlines()
    assert "| delta | 3/3 | 0.783 ± 0.044 | 0.683 ± 0.044 | 0.833 ± 0.044 | 0.733 ± 0.044 | 6.0 ± 0.0 |" in lines[11]
    assert "| delta | 3 | +0.133 ± 0.044 | 0.2500 | +0.300 ± 0.000 | 0.2500 |" in lines
    assert (folder / "sweep.png").stat().st_size > 10_000
    assert len(reported(folder).members) == 6  # its own files do not disturb it


def test_a_single_run_and_a_single_method_are_reported_without_pairs(folder, tmp_path):
    (folder / "dapo" / "seed1").rename(tmp_path / "lone")
    found = reported(tmp_path / "sweep" / "dapo")
    assert (found.baseline, [method.seeds for method in found.methods]) == (None, [(2, 3)])
    make_run(tmp_path / "one" / "seed1", method="delta", seed=1)
    one = reported(tmp_path / "one")
    assert len(report.tables(one)) == 3
    report.write(one)
    assert (tmp_path / "one" / "sweep.png").stat().st_size > 10_000


def test_bars_and_brackets_in_a_name_stay_text(folder, capsys):
    for seed in (1, 2, 3):
        config = folder / "delta" / f"seed{seed}" / "config.yaml"
        config.write_text(config.read_text().replace("label: delta", 'label: "a|[red]b"'))
    found = reported(folder)
    assert "| a\\|[red]b | 3/3 |" in report.markdown(found)
    report.show(found, Console(width=160))
    assert "a|[red]b" in capsys.readouterr().out


def test_an_unknown_baseline_is_an_error(folder):
    with pytest.raises(DataError, match="baseline=grpo: no complete run of it; expected one of dapo, delta"):
        reported(folder, baseline="grpo")


def test_a_folder_that_cannot_be_written_is_an_error(folder):
    (folder / "sweep.md").mkdir()
    with pytest.raises(StorageError, match=f"{folder} cannot be written"):
        report.write(reported(folder))


def test_two_runs_of_one_method_and_seed_are_refused(folder):
    make_run(folder / "again" / "seed1", method="delta", seed=1)
    with pytest.raises(DataError, match=r"again/seed1 and delta/seed1 are both delta with seed 1"):
        reported(folder)


def test_a_folder_that_is_no_sweep_is_refused_by_what_it_is(folder, tmp_path):
    with pytest.raises(DataError, match="nowhere is not a folder"):
        reported(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no run\. Expected"):
        reported(tmp_path / "empty")
    with pytest.raises(DataError, match="seed1 is the folder of a run, not of a sweep: delta-report run="):
        reported(folder / "dapo" / "seed1")
    (tmp_path / "empty" / "sweep.json").write_text('{"members": [')
    with pytest.raises(DataError, match=r"sweep\.json is damaged"):
        reported(tmp_path / "empty")


def test_one_folder_is_asked_for():
    for folders in ({}, {"sweep": "a", "run": "b"}):
        with pytest.raises(ConfigError, match="expected one folder"):
            ReportConfig(**folders)


@pytest.fixture
def command(tmp_path_factory: pytest.TempPathFactory) -> Train:
    return in_forks(tmp_path_factory.mktemp("said"), module="launch.sweep.__main__")


def test_the_command_reports_on_sweeps_and_runs(command: Train, folder):
    said = command(f"sweep={folder}", "threshold=0.62").stdout
    assert "11.5 ± 0.5 (2/3)" in said
    assert f"sweep.csv, members.csv, sweep.md, sweep.png: in {folder}" in said
    said = command(f"run={folder / 'dapo' / 'seed1'}").stdout
    assert "1 held-out problems, 12 steps" in said
    make_run(folder / "stopped", method="delta", seed=1, rows=7)
    for arguments, expected in (
        ([f"run={folder / 'stopped'}"], "is not complete: 7 of 12 steps are done"),
        ([f"run={folder}"], "holds no run: expected a folder with config.yaml"),
        ([f"sweep={folder}/nowhere"], "nowhere is not a folder"),
        (["sweeep=x"], "sweep"),
        ([], "expected one folder"),
    ):
        refused = command(*arguments)
        assert refused.returncode == 2
        assert expected in refused.stderr
