"""The same command means the same folders, another one others, and Hydra reads every folder as one value."""

import re

from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from launch.overrides import quoted
from launch.sweep.names import folder_of_sweep, name_of_member, swept_keys
from tests.conftest import ROOT

SWEPT = ["credit=uniform,discriminative", "seed=1,2"]


def read(text: str) -> object:
    override = OverridesParser.create().parse_override(f"run_dir={text}")
    assert not override.is_sweep_override()
    return override.value()


def test_a_sweep_is_named_by_what_is_swept():
    assert folder_of_sweep("", SWEPT) == "runs/sweeps/credit+seed"
    assert folder_of_sweep("", ["seed=range(1,4)", "steps=5"]).startswith("runs/sweeps/seed-")
    assert folder_of_sweep("", ["steps=5"]).startswith("runs/sweeps/single-")
    assert folder_of_sweep("runs/mine", SWEPT) == "runs/mine"
    assert folder_of_sweep("", ["steps=5"], {"seed": "1,2", "algorithm": "delta,dapo"}).startswith(
        "runs/sweeps/seed+algorithm-"
    )


def test_the_example_of_the_documentation_has_the_name_that_it_says():
    text = (ROOT / "docs" / "sweeps.md").read_text()
    (command,) = re.findall(r"^delta-train -m (\S.*seed=1,2,3)  +#", text, re.MULTILINE)
    assert f"delta-report sweep={folder_of_sweep('', command.split())} " in text


def test_more_values_and_another_place_are_the_same_sweep():
    folder = folder_of_sweep("", [*SWEPT, "steps=5", "data=jsonl"])
    for same in (
        [*SWEPT[:1], "seed=1,2,3", "data=jsonl", "steps=5"],
        [*SWEPT, "steps=5", "data=jsonl", "cluster=slurm", "cluster.partition=gpu", "hydra/launcher=slurm", "nodes=2"],
        [*SWEPT, "steps=5", "data=jsonl", "dry_run=true", "faults.grace_s=5", "logger.wandb=disabled"],
    ):
        assert folder_of_sweep("", same) == folder


def test_other_settings_are_another_sweep():
    others = [[*SWEPT, "steps=5"], [*SWEPT, "steps=6"], SWEPT, [*SWEPT, "experiment=laptop"], ["credit=uniform,share"]]
    assert len({folder_of_sweep("", other) for other in others}) == len(others)


def test_what_is_swept_is_told_from_what_is_fixed():
    assert swept_keys(["seed=1,2", "steps=5", "+a.b=1,2", "x=[1,2]"]) == ["seed", "a.b"]
    assert swept_keys(["seed=3"], {"seed": "1,2", "credit": "uniform,share"}) == ["credit"]


def test_a_member_is_named_by_its_choices():
    assert name_of_member({"credit": "uniform", "seed": "1"}) == "credit-uniform+seed-1"
    assert name_of_member({"hydra/x": "a", "learner.learning_rate": "1e-4"}) == "hydra.x-a+learner.learning_rate-1e-4"
    long = [name_of_member({"data.path": "x" * 300 + end}) for end in "ab"]
    assert len(set(long)) == 2
    assert max(map(len, long)) <= 200


@given(st.lists(st.text(min_size=1, max_size=300), min_size=2, max_size=2, unique=True))
def test_members_with_different_values_have_different_names_that_are_one_value(values):
    names = [name_of_member({"data.path": value}) for value in values]
    assert names[0] != names[1]
    for name in names:
        assert len(name.encode()) <= 255
        assert "/" not in name
        assert read(f"runs/{name}") == f"runs/{name}"


@given(st.from_regex(r"/[a-z0-9_ ,=:'\"\\${}()\[\]+~#äλ%@-]{0,20}", fullmatch=True))
def test_any_path_is_read_as_one_value(path):
    assert read(quoted(path)) == path
