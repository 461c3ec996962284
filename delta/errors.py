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


class MismatchError(DeltaError, RuntimeError):
    """Engine and learner disagree on the log-probabilities of the same tokens: the rollouts are not the policy's."""


class WorkerError(DeltaError, RuntimeError):
    """A worker died or missed its deadline; the message names it, the phase and what it was waiting for."""
