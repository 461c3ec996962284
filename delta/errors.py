"""What a user can cause, one small hierarchy.

Every message says what was seen, what was expected and what to do. Programming errors are not here: they are plain
Python exceptions and stop the run with a traceback.
"""


class DeltaError(Exception):
    """Base of the errors that are the user's to mend; the entry points print them without a traceback."""


class ConfigError(DeltaError, ValueError):
    """A configuration that cannot work, found before any process is started."""


class DataError(DeltaError, ValueError):
    """A problem file that cannot be read, or a row in it that is not a problem."""


class ModelError(DeltaError, ValueError):
    """A model path that does not hold a model this project can train."""


class CheckpointError(DeltaError, RuntimeError):
    """A checkpoint that is missing, damaged, foreign, or belongs to another configuration."""


class StorageError(DeltaError, OSError):
    """The run folder cannot be written: full disk, missing permission."""


class MissingNodesError(DeltaError, RuntimeError):
    """The cluster has too few nodes; nobody here can mend that, but a scheduler that starts the run again may."""


class TakenOverError(DeltaError, RuntimeError):
    """Another driver has taken over the run folder; this one must not write into it any more."""


class SubmissionError(DeltaError, RuntimeError):
    """A cluster refuses a job, or cannot be asked."""


class MismatchError(DeltaError, RuntimeError):
    """Engine and learner disagree on the log-probabilities of the same tokens: the rollouts are not the policy's."""


class GradientError(DeltaError, ArithmeticError):
    """Gradients are infinite or not a number, again and again: the run would only look as if it trained."""


class WorkerError(DeltaError, RuntimeError):
    """A worker died, missed its deadline or cannot do its work; the message names it and the phase."""


class ExhaustedError(WorkerError):
    """Processes of the run died or hung more often than it may start again; the message is the last one's report."""


class FaultError(WorkerError):
    """A process died, hung or lost touch: neither settings nor code are to blame, so starting again may help.

    Everything after the message has a default, so that an error that was raised in one process can be read in another.
    """

    def __init__(self, message: str, *, who: str = "", phase: str = "", cause: str = "") -> None:
        """Say what happened, and keep the parts of it for the record."""
        super().__init__(message)
        self.who = who
        self.phase = phase
        self.cause = cause


class DiedError(FaultError):
    """A process of the run is gone."""


class ConnectionLostError(FaultError):
    """A process lost its connection to another one, which is usually the one that died; `who` is the survivor."""


class StallError(FaultError):
    """A deadline passed; `who` is silent, while those in `answered` had finished the same call."""

    def __init__(
        self, message: str, *, who: str = "", phase: str = "", cause: str = "", answered: tuple[str, ...] = ()
    ) -> None:
        """Say what was waited for."""
        super().__init__(message, who=who, phase=phase, cause=cause)
        self.answered = answered
