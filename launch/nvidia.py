"""The GPUs of this machine, as NVIDIA's own tool shows them; torch would keep memory of a GPU for this process."""

import shutil
import subprocess
from dataclasses import dataclass

QUERY = "index,name,memory.total,memory.used,driver_version"
TIMEOUT_S = 40.0
"""The first call may load the driver, GPU by GPU."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU."""

    index: int
    name: str
    memory_mib: int
    """0 where it is not known."""
    used_mib: int
    driver: str


def installed_gpus() -> tuple[list[Gpu], str]:
    """The GPUs of this machine, or why they are not known."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return [], "no nvidia-smi: no NVIDIA driver is installed"
    try:
        shown = subprocess.run(
            [program, f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return [], f"nvidia-smi does not answer in {TIMEOUT_S:g} s"
    if shown.returncode:
        said = (shown.stdout + shown.stderr).strip().splitlines() or [f"ends with {shown.returncode}"]
        return [], f"nvidia-smi: {said[0]}"
    lines = [line for line in shown.stdout.splitlines() if line.strip()]
    try:
        return list(map(_gpu, lines)), ""
    except ValueError:  # a device that is lost is told in words
        return [], f"nvidia-smi: {'; '.join(lines)}"


def _gpu(line: str) -> Gpu:
    index, name, memory, used, driver = (part.strip() for part in line.split(","))
    # Shared memory (Grace, Jetson) and MIG show "[N/A]".
    return Gpu(int(index), name, _mib(memory), _mib(used), driver)


def _mib(text: str) -> int:
    return int(text) if text.isdigit() else 0
