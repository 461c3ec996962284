"""A supervisor: a few worker processes, one deadline for each answer, and always exactly one verdict."""

import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from delta.errors import DeltaError
from delta.types import FunctionTests, Outcome, Sample, StdioTests, Verdict
from workers.verifier.config import ScoringConfig
from workers.verifier.fork_server import ForkServer, WorkerProcess

MAX_ATTEMPTS = 2
"""Workers that an answer may kill before it gets the outcome `error`; the first may have died of something else."""
AGED_S = 30.0
"""After this long an answer that was put back is scored before the quick ones."""
CLOSED = Verdict(Outcome.error, 0.0, "the verifier was closed")


@dataclass(slots=True, eq=False)
class Job:
    """An answer on its way to a verdict."""

    sample: Sample
    future: "Future[Verdict]" = field(default_factory=Future)
    submitted: float = field(default_factory=time.monotonic)
    attempts: int = 0
    late: bool = False
    """Whether it was put back once, so that it may now take its time."""


class Backlog:
    """Answers that wait: new ones first come, first served, before those that were put back for taking long.

    This is what keeps a flood with a few hanging answers moving: a hanging one costs the others `patience_s`, not its
    whole deadline.
    """

    def __init__(self) -> None:
        """Empty and open."""
        self._quick: deque[Job] = deque()
        self._late: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, job: Job) -> bool:
        """Add an answer; False once closed."""
        with self._changed:
            (self._late if job.late else self._quick).append(job)
            self._changed.notify()
            return not self._closed

    def take(self) -> Job | None:
        """The next answer; waits for one. None once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._quick or self._late)
            if self._closed:
                return None
            aged = self._late and time.monotonic() - self._late[0].submitted > AGED_S
            return self._quick.popleft() if self._quick and not aged else self._late.popleft()

    def has_quick(self) -> bool:
        """Whether new answers wait."""
        return bool(self._quick)

    def close(self) -> list[Job]:
        """Nothing is taken any more; what was left."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            return [*self._quick, *self._late]


class Supervisor:
    """Scores answers on killable worker processes of this machine."""

    def __init__(self, config: ScoringConfig, *, workers: int | None = None) -> None:
        """Start the threads that watch over `workers` processes (by default as the configuration says for this host).

        The processes start with the first answer, or with `ready`.
        """
        self._config = config
        self._server = ForkServer(config)
        self._backlog = Backlog()
        self._processes: dict[int, WorkerProcess] = {}
        self.replaced = 0
        """Workers that died or were killed."""
        count = workers or workers_for(config, cpus=len(os.sched_getaffinity(0)))
        self._threads = [
            threading.Thread(target=self._watch, name=f"verifier-{place}", daemon=True) for place in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def ready(self) -> None:
        """Return once a worker can be forked.

        Raises:
            ConfigError: The configuration names something that cannot be loaded.
            WorkerError: The processes do not start.
        """
        self._server.fork().close()

    @property
    def workers(self) -> int:
        """Worker processes that score side by side."""
        return len(self._threads)

    @property
    def pids(self) -> list[int]:
        """The worker processes there are now."""
        return list(self._processes)

    def submit(self, sample: Sample) -> "Future[Verdict]":
        """A verdict to come; it always does."""
        job = Job(sample)
        self._put(job)
        return job.future

    def score(self, samples: Sequence[Sample]) -> list[Verdict]:
        """Verdicts in the order of the samples."""
        return [future.result() for future in [self.submit(sample) for sample in samples]]

    def close(self) -> None:
        """End all processes; what still waits gets the outcome `error`."""
        for job in self._backlog.close():
            _settle(job, CLOSED)
        for process in list(self._processes.values()):
            process.kill()
        self._server.close()
        for thread in self._threads:
            thread.join()

    def _put(self, job: Job) -> None:
        if not self._backlog.put(job):
            _settle(job, CLOSED)

    def _watch(self) -> None:
        """One thread's life: one worker process after another, one answer at a time."""
        process: WorkerProcess | None = None
        while (job := self._backlog.take()) is not None:
            if job.future.running() or job.future.set_running_or_notify_cancel():  # else nobody wants it any more
                process = self._attempt(job, process)
        if process is not None:
            self._end(process)

    def _attempt(self, job: Job, process: WorkerProcess | None) -> WorkerProcess | None:
        """Let a worker score the answer; the worker if it can go on."""
        try:
            if process is None:
                process = self._server.fork()
                self._processes[process.pid] = process
        except DeltaError as error:
            _settle(job, Verdict(Outcome.error, 0.0, str(error)))
            return None
        started = time.monotonic()
        try:
            process.connection.send(job.sample)
            deadline_s = self._deadline_s(job.sample)
            while not process.connection.poll(min(self._config.pool.patience_s, deadline_s)):
                seconds = time.monotonic() - started
                if seconds >= deadline_s:
                    self._replace(process)
                    _settle(job, Verdict(Outcome.timeout, 0.0, f"no verdict within {deadline_s:g} s", seconds))
                    return None
                if not job.late and self._backlog.has_quick():
                    self._replace(process)
                    job.late = True
                    self._put(job)
                    return None
            verdict, retires = process.connection.recv()
        except (EOFError, OSError):
            self._replace(process)
            job.attempts += 1
            if job.attempts < MAX_ATTEMPTS:
                self._put(job)
            else:
                seconds = time.monotonic() - started
                _settle(job, Verdict(Outcome.error, 0.0, f"its worker died, {MAX_ATTEMPTS} times", seconds))
            return None
        _settle(job, replace(verdict, seconds=time.monotonic() - started))
        if not retires:
            return process
        self._end(process)
        return None

    def _deadline_s(self, sample: Sample) -> float:
        if isinstance(sample.answer, FunctionTests | StdioTests):
            return self._config.pool.code_deadline_s  # the sandbox keeps the limits; this is for the case it hangs
        return self._config.pool.timeout_s

    def _replace(self, process: WorkerProcess) -> None:
        self.replaced += 1
        self._processes.pop(process.pid, None)
        process.kill()
        process.close()

    def _end(self, process: WorkerProcess) -> None:
        self._processes.pop(process.pid, None)
        process.close()


def workers_for(config: ScoringConfig, *, cpus: float) -> int:
    """Worker processes for a node."""
    return config.pool.num_workers or max(int(cpus * config.pool.cpu_share), 1)


def _settle(job: Job, verdict: Verdict) -> None:
    """Give the verdict, with the time that went by before the attempt that led to it."""
    elapsed = time.monotonic() - job.submitted
    if not job.future.done():
        job.future.set_result(replace(verdict, queue_seconds=max(elapsed - verdict.seconds, 0.0)))
