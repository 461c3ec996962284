"""An isolated judge for Python programs: function tests, and programs that read standard input."""

from workers.verifier.code.config import CodeConfig, SandboxMode
from workers.verifier.code.judge import CodeJudge
from workers.verifier.code.sandbox import SandboxError, probe

__all__ = ["CodeConfig", "CodeJudge", "SandboxError", "SandboxMode", "probe"]
