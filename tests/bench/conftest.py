"""Benchmarks as one runs them."""

import json
import subprocess
import sys
from typing import Any

from tests.conftest import ROOT


def report_of(name: str, *options: str) -> dict[str, Any]:
    """What `python -m tests.bench.NAME OPTIONS` prints."""
    command = [sys.executable, "-m", f"tests.bench.{name}", *options]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return json.loads(finished.stdout)
