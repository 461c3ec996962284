"""Reference programs of public problem sets, where the shared data folder is there, whole and broken on purpose."""

import ast
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from delta.types import FunctionTests, Outcome
from tests.conftest import ROOT
from tests.workers.verifier.code.conftest import needs_bubblewrap
from workers.verifier.code import CodeConfig, CodeJudge, SandboxMode

FOLDER = Path(os.environ.get("DELTA_SHARED_DATA", ROOT.parent / "shared" / "data")) / "code"
FILES = ("humaneval_dev", "mbpp_dev", "mbpp_sanitized_dev")
SAMPLE = 60
MUTANTS = 60

pytestmark = [
    pytest.mark.skipif(not FOLDER.exists(), reason="the shared data folder is not here"),
    needs_bubblewrap,
]

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Mod: ast.FloorDiv, ast.Div: ast.Mult},
    **{ast.Lt: ast.GtE, ast.Gt: ast.LtE, ast.LtE: ast.Lt, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.And: ast.Or, ast.Or: ast.And},
}


def read_rows() -> list[dict[str, str]]:
    return [json.loads(line) for name in FILES for line in (FOLDER / f"{name}.jsonl").read_text().splitlines()]


def reference_of(row: dict[str, str]) -> FunctionTests:
    return FunctionTests(row["tests"], row["entry_point"])


def mutate(program: str, generator: random.Random) -> str | None:
    """One operator, constant or returned value changed; None where there is nothing to change."""
    tree = ast.parse(program)
    places = [node for node in ast.walk(tree) if type(node) in SWAPS or isinstance(node, ast.Constant | ast.Return)]
    if not places:
        return None
    place = generator.choice(places)
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            items = value if isinstance(value, list) else [value]
            for number, item in enumerate(items):
                if item is place:
                    new = changed(place)
                    if isinstance(value, list):
                        value[number] = new
                    else:
                        setattr(parent, name, new)
    return ast.unparse(ast.fix_missing_locations(tree))


def changed(node: ast.AST) -> ast.AST:
    if isinstance(node, ast.Return):
        return ast.Return(ast.Constant(None))
    if isinstance(node, ast.Constant):
        return ast.Constant(node.value + 1 if isinstance(node.value, int | float) else "other")
    return SWAPS[type(node)]()


def plainly_passes(program: str, tests: str) -> bool:
    """Program and tests as one module in an ordinary process: the definition that the judge must agree with."""
    command = [sys.executable, "-S", "-c", f"{program}\n{tests}"]
    try:
        finished = subprocess.run(
            command, capture_output=True, timeout=10, env={"PYTHONHASHSEED": "0"}, cwd="/", check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return finished.returncode == 0


@pytest.fixture(scope="module")
def judge() -> Iterator[CodeJudge]:
    with CodeJudge(CodeConfig(sandbox=SandboxMode.bubblewrap)) as judge:
        yield judge


def not_correct(judge: CodeJudge, rows: list[dict[str, str]]) -> dict[str, str]:
    verdicts = {row["id"]: judge.judge(row["solution"], reference_of(row)) for row in rows}
    return {name: verdict.detail for name, verdict in verdicts.items() if verdict.outcome is not Outcome.correct}


def test_a_sample_of_reference_programs_is_correct(judge: CodeJudge):
    rows = read_rows()
    special = [row for row in rows if "class " in row["solution"] or "poly" in row["tests"] or "random" in row["tests"]]
    assert not not_correct(judge, random.Random(0).sample(rows, SAMPLE) + special)


@pytest.mark.slow
def test_every_reference_program_is_correct(judge: CodeJudge):
    assert not not_correct(judge, read_rows())


def disagreements(judge: CodeJudge, *, count: int, seed: int) -> tuple[dict[str, str], int]:
    """Mutants on which judge and plain execution differ, and how many of them really fail."""
    generator = random.Random(seed)
    different, failing = {}, 0
    for row in generator.sample(read_rows(), count):
        program = mutate(row["solution"], generator)
        if program is None:
            continue
        passes = plainly_passes(program, row["tests"])
        verdict = judge.judge(program, reference_of(row))
        failing += not passes
        if passes != (verdict.reward == 1.0):
            different[f"{row['id']}, passes plainly: {passes}, judge: {verdict.detail}"] = program
    return different, failing


@pytest.mark.slow
def test_the_judge_agrees_with_plain_execution_on_broken_programs(judge: CodeJudge):
    different, failing = disagreements(judge, count=MUTANTS, seed=0)
    assert not different
    assert failing > MUTANTS / 2
