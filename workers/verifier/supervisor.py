"""A supervisor: a few worker processes, one deadline for each answer, and always exactly one verdict."""

import os
import threading
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from enum import Enum

from delta.errors import DeltaError
from delta.types import FunctionTests, Outcome, Sample, StdioTests, Verdict
from workers.verifier.config import ScoringConfig
from workers.verifier.fork_server import ForkServer, WorkerProcess

MAX_DEATHS = 2
"""Workers that an answer may kill before it gets the outcome `error`; the first may have died of something else."""
SMOOTHING = 0.05
FLOOR_S = 0.005
"""No answer is usually quicker, for a pause of the scheduler must not look like a hanging one."""
FIRST_S = {False: 0.03, True: 0.4}
"""What a worker's first answer takes longer, by whether it is code: memory to copy, sandboxes to start."""
POLL_S = 0.05
"""How often an answer beyond its patience is looked at."""
SLOW_EVERY = 1000
"""One answer in so many is one of those put back most often, even while quick ones wait."""
CLOSED = Verdict(Outcome.error, 0.0, "the verifier was closed")


@dataclass(slots=True, eq=False)
class Job:
    """An answer on its way to a verdict."""

    sample: Sample
    future: "Future[Verdict]" = field(default_factory=Future)
    submitted: float = field(default_factory=time.monotonic)
    deaths: int = 0
    """Workers that died with it."""
    put_back: int = 0
    """Times that it was put back; each time it may take longer."""

    @property
    def is_code(self) -> bool:
        """Whether sandboxes have to be started for it."""
        return isinstance(self.sample.answer, FunctionTests | StdioTests)


class Ending(Enum):
    """Why a worker is replaced: it died, its answer is out of time, or the answer is to be put back."""

    died = "died"
    late = "late"
    put_back = "put back"


class Pace:
    """How long answers usually take, by kind: what "too long while others wait" is measured by.

    Relative, because a busy machine makes all answers slow, which is no reason to score them twice.
    """

    def __init__(self, factor: float) -> None:
        """Be patient for `factor` times the usual time."""
        self._factor = factor
        self._usual_s = {False: 0.02, True: 0.1}
        """Running means, from what is usual on a quiet machine."""

    def observe(self, job: Job, seconds: float) -> None:
        """Count an answer; those that were put back are known not to be usual."""
        if not job.put_back:
            self._usual_s[job.is_code] += SMOOTHING * (seconds - self._usual_s[job.is_code])

    def patience_s(self, job: Job, *, fresh: bool) -> float:
        """How long the answer may take while others wait: longer on a fresh worker, and after it was put back."""
        usual_s = max(self._usual_s[job.is_code], FLOOR_S)
        return float(usual_s * self._factor ** (job.put_back + 1)) + fresh * FIRST_S[job.is_code]


class Backlog:
    """Answers that wait: those that were put back least often first, and among them first come, first served.

    This is what keeps a flood with a few hanging answers moving: a hanging one costs the others a little patience, not
    its whole deadline. (It is how an operating system keeps long computations from holding up short ones.)
    """

    def __init__(self) -> None:
        """Empty and open."""
        self._waiting: defaultdict[int, deque[Job]] = defaultdict(deque)
        self._changed = threading.Condition()
        self._closed = False
        self._taken = 0

    def put(self, job: Job) -> bool:
        """Add an answer; False once closed."""
        with self._changed:
            self._waiting[job.put_back].append(job)
            self._changed.notify()
            return not self._closed

    def take(self) -> Job | None:
        """The next answer; waits for one. None once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting)
            if self._closed:
                return None
            self._taken += 1
            # No flood keeps the slow ones waiting for ever.
            level = max(self._waiting) if self._taken % SLOW_EVERY == 0 else min(self._waiting)
            job = self._waiting[level].popleft()
            if not self._waiting[level]:
                del self._waiting[level]
            return job

    def has_others(self, job: Job) -> bool:
        """Whether answers wait that were put back no more often than this one."""
        with self._changed:
            return any(level <= job.put_back for level in self._waiting)

    def close(self) -> list[Job]:
        """Nothing is taken any more; what was left."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            return [job for jobs in self._waiting.values() for job in jobs]


class Supervisor:
    """Scores answers on killable worker processes of this machine."""

    def __init__(self, config: ScoringConfig, *, workers: int | None = None) -> None:
        """Start the threads that watch over `workers` processes (by default as the configuration says for this host).

        The processes start with the first answer, or with `ready`.
        """
        self._config = config
        self._server = ForkServer(config)
        self._backlog = Backlog()
        self._pace = Pace(config.pool.patience)
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
        fresh = process is None
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
            ending = self._wait(job, process, started, fresh=fresh)
            if ending is None:
                verdict, retires = process.connection.recv()
        except Exception:  # noqa: BLE001  it died; or a judge's verdict cannot be read here, which is as good as none
            ending = Ending.died
        seconds = time.monotonic() - started
        if ending is not None:
            self._replace(process)
            self._after(ending, job, seconds)
            return None
        if not fresh:
            self._pace.observe(job, seconds)
        _settle(job, replace(verdict, seconds=seconds))
        if not retires:
            return process
        self._end(process)
        return None

    def _wait(self, job: Job, process: WorkerProcess, started: float, *, fresh: bool) -> Ending | None:
        """Wait for the worker to say something; why not to wait any longer, if it does not."""
        deadline_s = self._deadline_s(job.sample)
        patience_s = wait_s = min(self._pace.patience_s(job, fresh=fresh), deadline_s)
        while not process.connection.poll(wait_s):
            seconds = time.monotonic() - started
            if seconds >= deadline_s:
                return Ending.late
            if seconds >= patience_s and self._backlog.has_others(job):
                return Ending.put_back
            wait_s = min(max(patience_s - seconds, POLL_S), max(deadline_s - seconds, 0.0))
        return None

    def _after(self, ending: Ending, job: Job, seconds: float) -> None:
        """What becomes of an answer whose worker had to be replaced."""
        if ending is Ending.late:
            detail = f"no verdict within {self._deadline_s(job.sample):g} s"
            _settle(job, Verdict(Outcome.timeout, 0.0, detail, seconds))
        elif ending is Ending.put_back:
            job.put_back += 1
            self._put(job)
        else:
            job.deaths += 1
            if job.deaths < MAX_DEATHS:
                self._put(job)
            else:
                _settle(job, Verdict(Outcome.error, 0.0, f"its worker died, {MAX_DEATHS} times", seconds))

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
