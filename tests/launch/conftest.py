"""Commands that end before they start anything run in forks of one interpreter, which has done their imports."""

import importlib
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conftest import ROOT, Train, command


def _main(module: str, overrides: tuple[str, ...], environment: dict[str, str], output: Path, errors: Path) -> None:
    """`python -m MODULE OVERRIDES` as this process."""
    main = importlib.import_module(module).main
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    for number, path in ((1, output), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = [module, *overrides]
    main()


def in_forks(folder: Path, module: str = "launch.train", *, environment: Mapping[str, str] | None = None) -> Train:
    """A command to its end, without the seconds that its imports take: most of a refusal's."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["launch.train", "launch.preflight", "launch.report", "workers.controller.loop"])
    output, errors = folder / "output", folder / "errors"

    def run(*overrides: str, timeout_s: float = 300, check: bool = False) -> subprocess.CompletedProcess[str]:
        process = context.Process(
            target=_main, args=(module, overrides, dict(environment or os.environ), output, errors)
        )
        process.start()
        process.join(timeout_s)
        if process.is_alive():
            process.kill()
            raise subprocess.TimeoutExpired(command(overrides), timeout_s)
        finished = subprocess.CompletedProcess(
            command(overrides), process.exitcode, output.read_text(), errors.read_text()
        )
        if check:
            assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-3000:]
        return finished

    return run


@pytest.fixture
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """All commands here end before they start a run."""
    return in_forks(tmp_path_factory.mktemp("said"))
