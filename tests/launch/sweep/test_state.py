"""What is said of a member is what its folder, the launcher's events and the job's marks say."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from delta.errors import DataError
from launch.run_folder import held
from launch.submit.slurm.marks import ENDED, Marks
from launch.sweep.queue import jobs_as_far_as_known
from launch.sweep.reason import reason_in, tail
from launch.sweep.record import Event, EventLog, Member, What, check_folders, joined, read_sweep
from launch.sweep.state import State, Status, status_of
from tests.launch.sweep.made_runs import make_run, make_sweep


@pytest.fixture
def member(tmp_path) -> Member:
    return Member(name="seed-1", choices={"seed": "1"}, run_dir=tmp_path / "seed-1", overrides=("seed=1",))


def ended(code: int | None, reason: str = "") -> Event:
    return Event(member="seed-1", what=What.ended, code=code, reason=reason)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (None, "incomplete at step 4"),
        (ended(75), "preempted at step 4"),
        (ended(130), "preempted at step 4"),
        (ended(None, "job 7 was cancelled"), "preempted at step 4: job 7 was cancelled"),
        (ended(71, "engine 0 died"), "failed: engine 0 died"),
        (ended(-9, "killed by SIGKILL"), "failed: killed by SIGKILL"),
        (
            Event(member="seed-1", what=What.started, pid=1, host="elsewhere"),
            "preempted at step 4: it was killed on elsewhere",
        ),
        (
            Event(member="seed-1", what=What.started, pid=1, host=socket.gethostname()),
            "preempted at step 4: its process",
        ),
        (Event(member="seed-1", what=What.submitted, job="7"), "incomplete at step 4: job 7"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_run_that_is_not_complete_is_what_its_last_event_says(member, event, expected):
    make_run(member.run_dir, method="delta", seed=1, rows=4)
    status = status_of(member, event)
    assert status.text.startswith(expected)
    assert (status.step, status.steps) == (4, 12)


def test_a_complete_run_is_complete_whatever_was_said_before(member):
    make_run(member.run_dir, method="delta", seed=1)
    for event in (None, ended(71, "engine 0 died")):
        assert status_of(member, event) == Status(state=State.complete, step=12, steps=12)
    assert status_of(member, ended(0), steps=20).state is State.waiting  # it has more steps to make


def test_a_run_without_its_export_is_not_complete(member):
    make_run(member.run_dir, method="delta", seed=1)
    (member.run_dir / "export" / "config.json").unlink()
    assert status_of(member, ended(75)).state is State.preempted


def test_a_process_is_running_as_long_as_it_lives_and_is_the_members(member):
    command = [sys.executable, "-c", "import sys; sys.stdin.read()", f"run_dir={member.run_dir}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        event = Event(member="seed-1", what=What.started, pid=process.pid, host=socket.gethostname())
        assert status_of(member, event).state is State.running
        other = Member(name="other", choices={}, run_dir=member.run_dir.with_name("other"), overrides=())
        assert status_of(other, event).state is State.preempted
        process.stdin.close()
    assert status_of(member, event).state is State.preempted


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([75, 0], "running: job 7 has ended, its last files are not to be seen here yet"),
        ([75, 71], "failed: learner rank 1 died in update after step 3."),
        ([75], "preempted at step 0: job 7 was not put back"),
        ([], "incomplete at step 0: job 7; squeue is not found"),
    ],
)
def test_a_job_that_slurm_cannot_be_asked_about_is_what_its_last_start_said(member, monkeypatch, codes, expected):
    monkeypatch.setenv("PATH", "/nowhere")
    job_dir = member.run_dir / "job"
    job_dir.mkdir(parents=True)
    for start, code in enumerate(codes):
        (job_dir / f"start-7-{start}").mkdir()
        Marks(job_dir / f"start-7-{start}").make(ENDED, str(code))
    (job_dir / "slurm.log").write_text("error: learner rank 1 died in update after step 3.\n=== ended with code 71\n")
    event = Event(member="seed-1", what=What.submitted, job="7")
    jobs = jobs_as_far_as_known([(member, event)])
    assert status_of(member, event, jobs["seed-1"]).text.startswith(expected)
    for mark in job_dir.glob(f"*/{ENDED}"):
        os.utime(mark, (0, 0))
    if codes[-1:] == [0]:
        assert "ended well, but" in jobs_as_far_as_known([(member, event)])["seed-1"].detail


def test_a_process_of_another_host_is_running_as_long_as_it_holds_the_folder(member):
    member.run_dir.mkdir()
    event = Event(member="seed-1", what=What.started, pid=1, host="elsewhere")
    with held(member.run_dir, say=print):
        assert status_of(member, event).text.startswith("running: on elsewhere since")
    assert status_of(member, event).text == "preempted at step 0: it was killed on elsewhere"


def test_the_reason_is_the_last_error_of_this_attempt(tmp_path):
    log = tmp_path / "log"
    assert reason_in(log) == ""
    log.write_text("error: of the first attempt\n")
    since = log.stat().st_size
    with log.open("a") as file:
        file.write("KeyError: x\n")
    assert reason_in(log, since=since) == "KeyError: x"
    with log.open("a") as file:
        file.write("step 1\nerror: model.path is no model.\nby the way\n\n")
    assert reason_in(log, since=since) == "model.path is no model."
    with log.open("a") as file:
        file.write("[12:00:01 n1] error: 1 of 2 nodes joined Ray\n")
    assert reason_in(log) == "1 of 2 nodes joined Ray"
    log.write_text("Traceback\nValueError: x\n=== job 7 ended with code 1\n")
    assert reason_in(log) == "ValueError: x"
    assert tail(log).splitlines()[0] == "  Traceback"


def test_a_record_is_read_as_it_was_written_and_keeps_earlier_members(tmp_path):
    sweep = make_sweep(tmp_path / "sweep", seeds=(1, 2))
    assert read_sweep(sweep.folder) == sweep
    assert read_sweep(tmp_path) is None
    later = make_sweep(tmp_path / "other", seeds=(2, 3))
    seeds = [member.choices["seed"] for member in joined(later, sweep).members]
    assert seeds == ["1", "1", "2", "3", "2", "3"]


def test_the_last_event_counts(tmp_path, member):
    log = EventLog(tmp_path)
    assert log.last() == {}
    for event in (Event(member="a", what=What.submitted, job="1"), ended(75), ended(0)):
        log.add(event)
    assert log.last()["seed-1"].code == 0
    assert log.last()["a"].job == "1"


def test_members_in_one_folder_are_refused(member):
    twin = Member(name="seed-2", choices={}, run_dir=member.run_dir, overrides=())
    with pytest.raises(DataError, match="seed-1 and seed-2 have the same run_dir"):
        check_folders([member, twin])
    with pytest.raises(DataError, match=r"seed-1 and seed-1 have the same run_dir=.* Name each value once"):
        check_folders([member, member])  # seed=1,1


def test_a_method_is_what_seeds_have_in_common():
    def method(**choices: str) -> str:
        return Member(name="", choices=choices, run_dir=Path(), overrides=()).method

    assert method(seed="1") == ""
    assert method(credit="uniform", seed="1") == "uniform"
    assert method(steps="40", seed="1") == "steps=40"
    assert method(flag="true") == "flag=true"
    assert method(credit="uniform", steps="40", seed="1") == "credit=uniform, steps=40"
