"""The processes of a run on this host, and how they are ended."""

import contextlib
from collections.abc import Sequence

import psutil

ACTORS = ("LearnerWorker", "RolloutWorker", "VerifierHost")
"""Classes that run as actors."""

GRACE_S = 5.0
"""How long processes may take to end when told to."""


def actor_processes(*kinds: str) -> list[psutil.Process]:
    """Processes of this driver's actors here, all or those of some classes; Ray writes the class into the title.

    Ray's own agents have such titles too, and must be left alone: the node dies with them.
    """
    titles = tuple(f"ray::{kind}" for kind in kinds or ACTORS)
    return [process for process in _descendants() if _title(process).startswith(titles)]


def python_processes() -> list[psutil.Process]:
    """This driver's own Python processes here: actors, and the verifier's workers."""
    started = [process for process in _descendants() if "workers.verifier" in _title(process)]
    return [*actor_processes(), *started]


def wait_until_gone(processes: Sequence[psutil.Process]) -> None:
    """Wait for processes that have been told to end; end the ones that do not listen, stopped ones among them."""
    _, deaf = psutil.wait_procs(processes, timeout=GRACE_S)
    for process in deaf:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(deaf, timeout=GRACE_S)


def _descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it ended meanwhile
        return ""
