"""Workers by the fork: one process loads everything once, and every worker is a copy of it made in milliseconds.

A killed worker is then cheap to replace, which is what makes a deadline cheap to keep. The server and its workers
end with the process that started them, however that ends: the server sees its control socket close, and the workers
get the kernel's parent-death signal.
"""

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
        """End it at once, with all that it started; whoever waits for it sees its connection close."""
        with self._lock:
            if self._pidfd.closed or select.select([self._pidfd], [], [], 0)[0]:  # readable once the process is dead
                return
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:  # not yet a group of its own
                signal.pidfd_send_signal(self._pidfd.fileno(), signal.SIGKILL)

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

    def fork(self) -> WorkerProcess:
        """A new worker.

        Raises:
            ConfigError: The server cannot load what the configuration names.
            WorkerError: It does not start.
        """
        with self._lock:
            if self._control is not None:
                try:
                    return self._fork(self._control)
                except OSError:
                    self._stop()
            self._control = self._start()
            return self._fork(self._control)

    def close(self) -> None:
        """End the server, and with it all workers."""
        with self._lock:
            self._stop()

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "workers.verifier.fork_server", str(theirs.fileno())],
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
                    "PYTHONHASHSEED": "0",  # the order of a set must not decide a verdict
                    "OMP_NUM_THREADS": "1",
                },
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for the program, which then closes its workers
            )
        connection: Connection[ScoringConfig, str] = Connection(os.dup(ours.fileno()))
        try:
            connection.send(self._config)
            if not connection.poll(START_S):
                raise WorkerError(f"the verifier's fork server did not load within {START_S:.0f} s.")
            trouble = connection.recv()
        except (OSError, EOFError) as error:
            raise WorkerError(f"the verifier's fork server ended with code {self._process.wait()}.") from error
        finally:
            connection.close()
        if trouble:
            raise ConfigError(trouble)
        return ours

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
            self._process.kill()
            self._process.wait()
            self._process = None


def _serve(control: socket.socket) -> None:
    """The server's side: load, then fork a worker for every socket that is sent."""
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
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    server = os.getpid()
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        pid = os.fork()
        if pid == 0:
            control.close()
            _end_with_parent(server)
            os.setpgid(0, 0)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            VerifierWorker(scorer, memory_mib=config.pool.memory_mib).serve(Connection(descriptors[0]))
            os._exit(0)
        os.close(descriptors[0])
        pidfd = os.pidfd_open(pid)
        socket.send_fds(control, [str(pid).encode()], [pidfd])
        os.close(pidfd)


def _end_with_parent(parent: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
