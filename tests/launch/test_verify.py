"""A file of answers is scored from the shell: in order, whatever is wrong with some of its rows."""

import json
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

from tests.conftest import ROOT

GCD = "def gcd(a, b):\n    return gcd(b, a % b) if b else a\n"
ROWS = [
    {"id": "right", "task": "math", "response": "so \\boxed{\\frac{1}{2}}", "answer": "0.5"},
    {"id": "wrong", "task": "math", "response": "so \\boxed{3}", "answer": 4},
    {"id": "nothing", "task": "math", "response": "I give up", "answer": "4"},
    {
        "id": 7,
        "task": "code",
        "response": f"```python\n{GCD}```",
        "tests": "assert gcd(4, 6) == 2",
        "entry_point": "gcd",
    },
    {"id": "exits", "task": "code", "response": "exit(0)", "tests": "assert gcd(4, 6) == 2", "entry_point": "gcd"},
    {"task": "code", "response": "print(int(input()) + 1)", "tests": [{"input": "4\n", "output": "5\n"}]},
]


def verify(*arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "launch.verify", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s)


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_row_gets_its_verdict_in_order_and_bad_ones_are_named_by_line(tmp_path):
    lines = [json.dumps(row) for row in ROWS]
    lines.insert(1, "{broken")
    lines.insert(3, "")
    lines.insert(4, '{"id": "no answer", "task": "math", "response": "4"}')
    lines.append('{"id": "deep", "task": "math", "response": "4", "answer": ' + "[" * 100_000)
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    finished = verify(f"input={tmp_path / 'in.jsonl'}", f"output={tmp_path / 'out.jsonl'}")
    assert finished.returncode == 0, finished.stderr
    rows = read(tmp_path / "out.jsonl")
    assert [(row["id"], row["outcome"], row["reward"]) for row in rows] == [
        ("right", "correct", 1.0),
        (2, "error", 0.0),
        ("wrong", "wrong", 0.0),
        ("no answer", "error", 0.0),
        ("nothing", "unparsable", 0.0),
        (7, "correct", 1.0),
        ("exits", "wrong", 0.0),
        (9, "correct", 1.0),
        (10, "error", 0.0),
    ]
    assert all(set(row) == {"id", "outcome", "reward", "seconds", "detail"} for row in rows)
    assert "line 2: not JSON" in rows[1]["detail"]
    assert "line 5: no field 'answer'" in rows[3]["detail"]
    for text in ("bad row", "code", "math", "line 2", "line 5", "line 10"):
        assert text in finished.stdout


def test_parts_of_the_reward_are_told_apart(tmp_path):
    (tmp_path / "in.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS[:2]))
    verify(f"input={tmp_path / 'in.jsonl'}", f"output={tmp_path / 'out.jsonl'}", "reward=shaped")
    right, wrong = read(tmp_path / "out.jsonl")
    assert right["parts"] == {"correctness": 1.0, "format": 1.0, "language": 1.0}
    assert right["reward"] == pytest.approx(1.2)
    assert wrong["reward"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["expected two files", "delta-verify input="]),
        (["input=in.jsonl"], ["output=nothing"]),
        (["input=same.jsonl", "output=./same.jsonl"], ["would overwrite"]),
        (["input=nowhere.jsonl", "output={tmp}/out.jsonl"], ["nowhere.jsonl", "No such file"]),
        (["input={tmp}/in.jsonl", "output={tmp}/nowhere/out.jsonl"], ["cannot be written"]),
        (["inptu=a"], ["inptu", "input"]),
        (["serve=8000"], ["expected HOST:PORT"]),
        (["serve=127.0.0.1:1", "input=a"], ["one or the other"]),
        (["input={tmp}/in.jsonl", "output={tmp}/out.jsonl", "verifier.code.timeout_s=0"], ["timeout_s=0"]),
        (
            ["input={tmp}/in.jsonl", "output={tmp}/out.jsonl", "reward.parts.correctness.function=no.such.part"],
            ["no.such", "cannot be imported"],
        ),
    ],
)
def test_bad_settings_are_refused_with_advice(tmp_path, arguments, expected):
    (tmp_path / "in.jsonl").write_text(json.dumps(ROWS[0]))
    finished = verify(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert finished.returncode == 2
    for text in expected:
        assert text in finished.stderr
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_the_service_answers_until_it_is_told_to_end(signal_number):
    command = [sys.executable, "-m", "launch.verify", "serve=127.0.0.1:18431"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen("http://127.0.0.1:18431/health", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline, "the service did not start"
                time.sleep(0.2)
        request = urllib.request.Request(
            "http://127.0.0.1:18431/score", json.dumps({"samples": ROWS}).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            outcomes = [row["outcome"] for row in json.load(answer)["verdicts"]]
        assert outcomes == ["correct", "wrong", "unparsable", "correct", "wrong", "correct"]
    finally:
        process.send_signal(signal_number)
        process.communicate(timeout=30)
    assert process.returncode == 0
