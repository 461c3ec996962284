"""One attempt of a run: what the operator has Ray start on the head, around the driver.

    python -m launch.submit.kuberay.attempt JOB_DIR -- delta-train ...

A pod that is to go is told so by SIGTERM to its first process, which passes it on to nobody, and a worker pod could
not reach the driver anyway. So pods speak through the job folder, which all of them see: as long as the driver runs
there is a file `running-CLUSTER`; a pod that is to go makes `end-CLUSTER` and waits until the first is gone (the
manifest's preStop). The driver is then told to end, and does so with a checkpoint.

The operator starts whatever failed again, on new pods. That is right after a preemption (exit code 75) and for lost
machines, but not for a wrong setting: after an exit code that would be the same next time the job is stopped, which
the operator takes as its end. The output of all attempts is in JOB_DIR/driver.log; what pods print goes with them.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import BinaryIO

from launch.command import EXIT_FAULT, EXIT_INTERRUPTED, EXIT_USER_ERROR

POLL_S = 1.0
BEAT_S = 5.0
"""How often a running attempt renews its mark."""
QUIET_S = 60.0
"""An attempt whose mark was not renewed for so long is gone; file systems of clusters show changes late."""
FINAL = (1, EXIT_USER_ERROR, EXIT_FAULT, EXIT_INTERRUPTED)
"""Exit codes of a driver that would end in the same way again."""
LOG = "driver.log"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def wait_for_others(job_dir: Path, own: Path, *, quiet_s: float = QUIET_S, poll_s: float = POLL_S) -> None:
    """Let an attempt on other pods finish its checkpoint: new pods may be up before the last ones are gone."""
    for other in sorted(job_dir.glob("running-*")):
        if other == own:
            continue
        seen, since = "", time.monotonic()
        while time.monotonic() - since < quiet_s:
            try:
                beat = other.read_text()
            except FileNotFoundError:
                break
            if beat != seen:
                if not seen:
                    _say(f"waiting for the attempt before this one ({other.name}) to end")
                seen, since = beat, time.monotonic()
            time.sleep(poll_s)
        other.unlink(missing_ok=True)


class Attempt:
    """The driver as a child, its output in the log, and the pods that want it to end."""

    def __init__(self, command: list[str], job_dir: Path, cluster: str) -> None:
        """Nothing is started yet.

        Args:
            command: The driver.
            job_dir: Shared by all pods.
            cluster: Name of the RayCluster, another one for every attempt on new pods.
        """
        self.command = command
        self.job_dir = job_dir
        self.running = job_dir / f"running-{cluster}"
        self.end = job_dir / f"end-{cluster}"
        self.told = False
        """Whether the driver knows that it is to end; a second word would keep it from writing its checkpoint."""

    def run(self) -> int:
        """The driver from start to end; its exit code."""
        # Ray sends its signal to all processes of a job, so the driver has it too.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._told_by_ray)
        self.job_dir.mkdir(parents=True, exist_ok=True)
        self.end.unlink(missing_ok=True)
        wait_for_others(self.job_dir, self.running)
        self._beat()
        try:
            with (self.job_dir / LOG).open("ab") as log:
                child = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                if self.told:  # while it was started
                    child.terminate()
                copying = threading.Thread(target=self._copy, args=(child, log), daemon=True)
                copying.start()
                code = self._watch(child)
                copying.join(timeout=10)
        except OSError as error:
            _say(f"error: {' '.join(self.command[:1])} cannot be started: {error}")
            code = EXIT_USER_ERROR
        finally:
            self.running.unlink(missing_ok=True)
        return code

    def _told_by_ray(self, number: int, frame: object) -> None:
        self.told = True

    def _beat(self) -> None:
        self.running.write_text(f"{time.time()}\n")

    def _watch(self, child: "subprocess.Popen[bytes]") -> int:
        beaten = time.monotonic()
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return child.wait(POLL_S)
            if time.monotonic() - beaten >= BEAT_S:
                with contextlib.suppress(OSError):  # a full disk is the driver's to report
                    self._beat()
                beaten = time.monotonic()
            if not self.told and self.end.exists():
                _say("a pod is to go: the run is told to end with a checkpoint")
                self.told = True
                child.terminate()

    def _copy(self, child: "subprocess.Popen[bytes]", log: BinaryIO) -> None:
        assert child.stdout is not None
        while piece := os.read(child.stdout.fileno(), 2**16):
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
            with contextlib.suppress(OSError):
                log.write(piece)
                log.flush()


def stop_job(*, wait_s: float = 30.0) -> None:
    """Have Ray record the job as stopped, so that the operator does not start it again; waits for Ray's signal."""
    from ray.job_submission import JobSubmissionClient

    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("metadata", {}).get("job_submission_id")
    if job is None:
        return  # not started by Ray's job server
    try:
        JobSubmissionClient().stop_job(job)  # at RAY_ADDRESS
    except (ConnectionError, RuntimeError) as error:
        _say(f"the job could not be stopped and may be started again: {error}")
        return
    signal.sigtimedwait({signal.SIGTERM}, wait_s)


def main() -> None:
    """Entry point."""
    job_dir, separator, *command = sys.argv[1:]
    if separator != "--" or not command:
        raise SystemExit("usage: python -m launch.submit.kuberay.attempt JOB_DIR -- COMMAND")
    attempt = Attempt(command, Path(job_dir), os.environ.get("RAY_CLUSTER_NAME", "cluster"))
    code = attempt.run()
    if code in FINAL and not attempt.told:
        _say(f"exit code {code}: starting it again would end in the same way, so the job ends here")
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        stop_job()
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
