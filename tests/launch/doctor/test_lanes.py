"""Whatever becomes of a check, it is a finding, and the others are done."""

import os
import signal
import subprocess
import sys
import time

import psutil

from launch.doctor.check import Examination, Status, ok
from launch.doctor.lanes import Round
from tests.launch.doctor.conftest import by_name
from tests.launch.test_conf import composed


def raises(_):
    sys.stdout.write("before that\n")
    raise ZeroDivisionError("a number too many")


def is_killed(_):
    os.kill(os.getpid(), signal.SIGKILL)


def exits(_):
    sys.exit(7)


def fine(_):
    sys.stdout.write("hidden\n")
    return ok("fine")


def all_checks(*lanes, fast=False, overrides=()):
    return list(Round([list(lane) for lane in lanes], composed(*overrides), fast=fast).checks())


def test_a_check_that_breaks_is_a_finding_and_the_rest_goes_on(capfd):
    names = {"one": fine, "two": raises, "three": fine, "four": is_killed, "five": exits, "six": fine}
    lane = [Examination(name, function) for name, function in names.items()]
    found = by_name(all_checks(lane, [Examination("seven", fine)]))
    assert [found[name].seen for name in ("one", "three", "six", "seven")] == ["fine"] * 4
    assert found["two"].seen == "crashed: ZeroDivisionError: a number too many"
    assert "before that" in found["two"].output
    assert "Traceback" in found["two"].output
    assert found["four"].seen.startswith("crashed: SIGKILL")
    assert {found[name].status for name in ("two", "four", "five")} == {Status.failed}
    assert capfd.readouterr() == ("", "")


def test_a_check_that_hangs_is_ended_with_all_that_it_started(tmp_path):
    def hangs(_):
        child = subprocess.Popen(["sleep", "600"])
        (tmp_path / "child").write_text(str(child.pid))
        time.sleep(600)

    (late, after) = all_checks([Examination("slow", hangs, timeout_s=2), Examination("next", fine)])
    assert late.finding.status is Status.failed
    assert "no answer in 2 s" in late.finding.seen
    assert after.finding.status is Status.ok
    child = int((tmp_path / "child").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_an_interrupted_round_leaves_no_process():
    before = set(psutil.Process().children(recursive=True))
    checks = Round(
        [[Examination("first", fine)], [Examination("slow", lambda _: time.sleep(600))]], composed(), fast=False
    ).checks()
    next(checks)
    checks.close()
    assert set(psutil.Process().children(recursive=True)) == before


def test_what_does_not_apply_is_skipped_with_the_reason(monkeypatch):
    lane = [Examination("node", fine, of_node=True), Examination("trial", fine, starts_processes=True)]
    here = by_name(all_checks(lane))
    assert {finding.status for finding in here.values()} == {Status.ok}
    assert "--fast" in by_name(all_checks(lane, fast=True))["trial"].seen
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    away = by_name(all_checks(lane, overrides=["cluster=slurm"]))
    assert away["node"].status is Status.skipped
    assert away["trial"].status is Status.ok
    monkeypatch.setenv("SLURM_JOB_ID", "1")  # in a job this machine is a node
    assert by_name(all_checks(lane, overrides=["cluster=slurm"]))["node"].status is Status.ok


def test_what_pods_have_on_their_volumes_is_not_looked_for_here(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    lane = [Examination("folder", fine, of_storage=True), Examination("data", fine, of_inputs=True)]

    def done(cluster: str, path: str) -> list[str]:
        found = by_name(all_checks(lane, overrides=[f"cluster={cluster}", "data=jsonl", f"data.path={path}"]))
        return [name for name, finding in found.items() if finding.status is Status.ok]

    assert done("slurm", "/volume/problems.jsonl") == ["folder", "data"]
    assert done("kuberay", __file__) == ["data"]
    assert done("kuberay", "/volume/problems.jsonl") == []
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # in a pod
    assert done("kuberay", "/volume/problems.jsonl") == ["folder", "data"]
