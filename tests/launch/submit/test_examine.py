"""What is looked at before a run is sent leaves nothing behind for the job to inherit."""

import os

from launch.submit.examine import look_ahead
from tests.launch.test_conf import composed
from workers.controller.console import RunConsole


def test_a_job_does_not_inherit_what_libraries_set_for_themselves(monkeypatch):
    def check(config, console) -> None:
        assert config.dry_run
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = "/of/this/machine"

    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setattr("launch.preflight.check", check)  # where it is set depends on which module is imported first
    before = dict(os.environ)
    assert look_ahead(composed("experiment=laptop", "cluster=slurm"), RunConsole(quiet=True)) == []
    assert dict(os.environ) == before
