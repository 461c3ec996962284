"""Conditions that are really broken: in a process of its own, a check meets them and nothing else does."""

import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launch.doctor.check import Check, Examination, Finding
from launch.doctor.lanes import Round
from tests.launch.submit.kuberay.conftest import server as server
from tests.launch.test_conf import composed

NEW_NETWORK, NEW_NAMES = 0x40000000, 0x04000000
"""CLONE_NEWNET and CLONE_NEWUTS of Linux."""


def alone(function: Callable[[], Finding]) -> Finding:
    """What a check finds in a process whose limits and namespaces the function may change."""
    (check,) = Round([[Examination("it", lambda _: function())]], composed(), fast=False).checks()
    return check.finding


def by_name(checks: list[Check]) -> dict[str, Finding]:
    return {check.name: check.finding for check in checks}


def unshare(flags: int) -> None:
    """Leave the machine's network or its name."""
    if ctypes.CDLL(None, use_errno=True).unshare(flags):
        raise OSError(ctypes.get_errno(), "unshare")


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and mounts need root")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of one MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", disk], check=True)
