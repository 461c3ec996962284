"""The processes of a run on a host, and how they are ended."""

import contextlib
import os
from collections.abc import Sequence

import psutil

ACTORS = ("LearnerWorker", "RolloutWorker", "VerifierHost")
"""Classes that run as actors."""

GRACE_S = 5.0
"""How long processes may take to end when told to."""

JOB = "RAY_JOB_ID"
"""Ray's environment variable in the processes that work for a driver; what these start inherits it."""


def actor_processes(*kinds: str) -> list[psutil.Process]:
    """Processes of this driver's actors below it, all or those of some classes; Ray writes the class into the title.

    Ray's own agents have such titles too, and must be left alone: the node dies with them.
    """
    return _actors(psutil.Process().children(recursive=True), kinds or ACTORS)


def python_processes() -> list[psutil.Process]:
    """This driver's own Python processes below it: actors, and the verifier's workers."""
    return _python(psutil.Process().children(recursive=True))


def actors_of_job(*kinds: str) -> list[psutil.Process]:
    """As `actor_processes`, asked from a task of the driver: all on its node, which other drivers may use too."""
    return _actors(_of_job(), kinds or ACTORS)


def python_processes_of_job() -> list[psutil.Process]:
    """As `python_processes`, asked from a task of the driver."""
    return _python(_of_job())


def end_actors_of_job(*kinds: str) -> None:
    """In a task of the driver: end its actors on this node, all or those of some classes, and wait until they are."""
    processes = actors_of_job(*kinds)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    wait_until_gone(processes)


def wait_until_gone(processes: Sequence[psutil.Process]) -> None:
    """Wait for processes that have been told to end; end the ones that do not listen, stopped ones among them."""
    _, deaf = psutil.wait_procs(processes, timeout=GRACE_S)
    for process in deaf:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(deaf, timeout=GRACE_S)


def _of_job() -> list[psutil.Process]:
    """Processes of the driver whose task this process does: its siblings, and what they have started."""
    found = []
    for process in psutil.Process(os.getppid()).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it ended meanwhile
            if process.pid != os.getpid() and process.environ().get(JOB) == os.environ[JOB]:
                found.append(process)
    return found


def _actors(processes: Sequence[psutil.Process], kinds: Sequence[str]) -> list[psutil.Process]:
    titles = tuple(f"ray::{kind}" for kind in kinds)
    return [process for process in processes if _title(process).startswith(titles)]


def _python(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    started = [process for process in processes if "workers.verifier" in _title(process)]
    return [*_actors(processes, ACTORS), *started]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it ended meanwhile
        return ""
