"""Workers by the fork: one process loads everything once, and every worker is a copy of it made in milliseconds.

A killed worker is then cheap to replace, which is what makes a deadline cheap to keep. The server and its workers
end with the process that started them, however that ends, and with a worker ends what it has started: the server
watches over all of them, and should it be killed itself, the workers get the kernel's parent-death signal.
"""

import contextlib
import ctypes
import gc
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from multiprocessing.connection import Connection

from delta.errors import ConfigError, WorkerError
from delta.types import Sample, Verdict
from workers.verifier.config import ScoringConfig
from workers.verifier.worker import VerifierWorker

START_S = 120.0
"""How long the server may take to load; generous, since sympy takes seconds on a busy machine."""
STOP_S = 10.0
"""How long it may take to end its workers when asked to; then it is killed."""
PR_SET_PDEATHSIG = 1


class WorkerProcess:
    """A forked worker as its supervisor sees it."""

    def __init__(self, pid: int, pidfd: int, connection: "Connection[Sample, tuple[Verdict, bool]]") -> None:
        """Take over the descriptors."""
        self.pid = pid
        self.connection = connection
        self._pidfd = os.fdopen(pidfd, closefd=True)
        self._lock = threading.Lock()  # a process may be killed from another thread than the one that closes it

    def kill(self) -> None:
        """End it at once, with all that it started; whoever waits for it sees its connection close.

        If it is dead already the server has ended what it started.
        """
        with self._lock:
            if self._pidfd.closed or select.select([self._pidfd], [], [], 0)[0]:  # readable once the process is dead
                return
            with contextlib.suppress(ProcessLookupError):  # it ended just now
                os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Let go of it: a worker that waits for an answer ends by itself."""
        with self._lock:
            self.connection.close()
            self._pidfd.close()


class ForkServer:
    """The server as its supervisor sees it; started again when it has died."""

    def __init__(self, config: ScoringConfig) -> None:
        """Prepare; the first `fork` starts it."""
        self._config = config
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._closed = False

    def fork(self) -> WorkerProcess:
        """A new worker.

        Raises:
            ConfigError: The server cannot load what the configuration names.
            WorkerError: It does not start, or was closed.
        """
        with self._lock:
            if self._closed:
                raise WorkerError("the verifier was closed.")
            if self._control is not None:
                try:
                    return self._fork(self._control)
                except OSError:
                    self._stop()
            self._control, theirs = socket.socketpair()
            try:
                with theirs:
                    self._process = self._start(theirs)
                self._load(self._control, self._process)
                return self._fork(self._control)
            except OSError as error:
                self._stop()
                raise WorkerError(f"the verifier's fork server does not start: {error}") from error
            except BaseException:
                self._stop()
                raise

    def close(self) -> None:
        """End the server, and with it all workers."""
        with self._lock:
            self._closed = True
            self._stop()

    def _start(self, theirs: socket.socket) -> "subprocess.Popen[bytes]":
        owner = os.pidfd_open(os.getpid())
        try:
            return subprocess.Popen(
                [sys.executable, "-m", "workers.verifier.fork_server", str(theirs.fileno()), str(owner)],
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
                    "PYTHONHASHSEED": "0",  # the order of a set must not decide a verdict
                    "OMP_NUM_THREADS": "1",
                },
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), owner],
                start_new_session=True,  # Ctrl-C is for the program, which then closes its workers
            )
        finally:
            os.close(owner)

    def _load(self, control: socket.socket, process: "subprocess.Popen[bytes]") -> None:
        connection: Connection[ScoringConfig, str] = Connection(os.dup(control.fileno()))
        try:
            connection.send(self._config)
            if not connection.poll(START_S):
                process.kill()
                raise WorkerError(f"the verifier's fork server did not load within {START_S:.0f} s.")
            trouble = connection.recv()
        except (OSError, EOFError) as error:
            raise WorkerError(f"the verifier's fork server ended with code {process.wait()}.") from error
        finally:
            connection.close()
        if trouble:
            raise ConfigError(trouble)

    def _fork(self, control: socket.socket) -> WorkerProcess:
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(control, [b"f"], [theirs.fileno()])
        message, descriptors, _, _ = socket.recv_fds(control, 16, 1)
        if not descriptors:
            ours.close()
            raise ConnectionError("the fork server has ended")
        return WorkerProcess(int(message), descriptors[0], Connection(ours.detach()))

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)
            self._process.kill()
            self._process.wait()
            self._process = None


def _serve(control: socket.socket, owner: int) -> None:
    """The server's side: load, fork a worker for every socket that is sent, and see to it that nothing outlives it."""
    from workers.verifier.scorer import Scorer

    connection: Connection[str, ScoringConfig] = Connection(os.dup(control.fileno()))
    config = connection.recv()
    try:
        scorer = Scorer(config)
    except Exception as error:  # noqa: BLE001  whatever it is, the supervisor must hear it
        connection.send(str(error) or repr(error))
        return
    connection.send("")
    connection.close()
    gc.collect()
    gc.freeze()  # keeps the collector of a worker from touching, and so copying, what it shares with the others
    server = os.getpid()
    workers: dict[int, int] = {}  # process id by pidfd
    try:
        while True:
            # A pidfd is readable once its process has ended. A fork of the owner may hold the control socket open.
            ready = select.select([control.fileno(), owner, *workers], [], [])[0]
            for pidfd in workers.keys() & ready:
                _bury(pidfd, workers.pop(pidfd))
            if owner in ready:
                return
            if control.fileno() not in ready:
                continue
            message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
            if not message:
                return
            pid = os.fork()
            if pid == 0:
                control.close()
                for descriptor in (owner, *workers):
                    os.close(descriptor)
                _end_with_parent(server)
                os.setpgid(0, 0)
                VerifierWorker(scorer, memory_mib=config.pool.memory_mib).serve(Connection(descriptors[0]))
                os._exit(0)
            with contextlib.suppress(OSError):  # it did so itself; whoever kills it must find the group in any case
                os.setpgid(pid, pid)
            os.close(descriptors[0])
            workers[os.pidfd_open(pid)] = pid
            socket.send_fds(control, [str(pid).encode()], [next(reversed(workers))])
    finally:
        if os.getpid() == server:
            for pidfd, pid in workers.items():
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                _bury(pidfd, pid)


def _bury(pidfd: int, pid: int) -> None:
    """End what a worker has started, and then let the kernel forget its process id."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(pidfd)


def _end_with_parent(parent: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
