"""How programs are judged: the kind of sandbox and its limits."""

from dataclasses import dataclass
from enum import Enum


class SandboxMode(Enum):
    """What keeps a program from the rest of the machine."""

    auto = "auto"
    """bubblewrap where it works, else a plain process with a loud warning."""
    bubblewrap = "bubblewrap"
    """Namespaces of its own: no network, no foreign files or processes; refuses to start where that does not work."""
    process = "process"
    """A process with resource limits and nothing else."""


@dataclass(kw_only=True, slots=True)
class CodeConfig:
    """The sandbox of one program."""

    sandbox: SandboxMode = SandboxMode.auto
    """What the sandbox is made of."""
    timeout_s: float = 10.0
    """Wall clock of one program over all its tests, from the moment it starts; a sandbox's start is not counted."""
    test_timeout_s: float = 5.0
    """Wall clock of one stdin/stdout case."""
    cpu_s: int = 10
    """Processor seconds of one process of the program."""
    memory_mib: int = 1024
    """Memory of the whole sandbox: resident memory of all its processes and its files; also of one address space."""
    max_processes: int = 32
    """Processes and threads of the sandbox."""
    max_file_mib: int = 64
    """All files together, and each of them; they live in memory."""
    max_output_mib: int = 8
    """Standard output of one stdin/stdout case."""
    max_answer_mib: int = 16
    """Values that a function returns, encoded, over all calls of a program."""
    max_program_kib: int = 1024
    """Longer source text is not run."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 < self.test_timeout_s <= self.timeout_s:
            raise ValueError(
                f"code.timeout_s={self.timeout_s}, code.test_timeout_s={self.test_timeout_s}: expected positive "
                "seconds, and no more for a test than for the program."
            )
        if self.memory_mib < 64 or self.max_processes < 4 or self.max_output_mib > self.max_file_mib:
            raise ValueError(
                f"code.memory_mib={self.memory_mib}, code.max_processes={self.max_processes}, "
                f"code.max_output_mib={self.max_output_mib}, code.max_file_mib={self.max_file_mib}: expected at least "
                "64 MiB, 4 processes, and output no larger than a file."
            )
        if min(self.cpu_s, self.max_file_mib, self.max_output_mib, self.max_answer_mib, self.max_program_kib) < 1:
            raise ValueError(
                f"code.cpu_s={self.cpu_s}, code.max_file_mib={self.max_file_mib}, "
                f"code.max_output_mib={self.max_output_mib}, code.max_answer_mib={self.max_answer_mib}, "
                f"code.max_program_kib={self.max_program_kib}: expected at least 1 each."
            )
