"""What the commands share: exit codes, errors that end in a message, and the way from a command line to a dataclass."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from delta.errors import ConfigError, DeltaError, ExhaustedError, MissingNodesError

if TYPE_CHECKING:
    from omegaconf import DictConfig

EXIT_USER_ERROR = 2
"""Something the user can mend; the message says what."""

EXIT_MEMBERS = 3
"""Members of a sweep failed; all others were brought to their end."""

EXIT_INTERRUPTED = 130
"""Ended by Ctrl-C; the run folder holds a checkpoint."""

EXIT_PREEMPTED = 75
"""Ended by SIGTERM or SIGUSR1, or for want of nodes: start me again. (`EX_TEMPFAIL` of sysexits.h; schedulers can
requeue on it.)"""

EXIT_FAULT = 71
"""A process of the run died or hung, more often than `faults.max_restarts`. (`EX_OSERR`.)"""


@contextlib.contextmanager
def errors_explained() -> Iterator[None]:
    """Where the block fails for a reason that is the user's to mend, end with a message instead of a traceback."""
    try:
        yield
    except DeltaError as error:
        sys.stderr.write(f"\nerror: {error}\n")
        sys.exit(exit_code(error))


def exit_code(error: DeltaError) -> int:
    """What a command ends with after `error`."""
    if isinstance(error, ExhaustedError):
        return EXIT_FAULT
    return EXIT_PREEMPTED if isinstance(error, MissingNodesError) else EXIT_USER_ERROR


def run_configured(task: Callable[[Any, "DictConfig"], int], *, config_name: str) -> None:
    """Compose `conf/<config_name>.yaml` with the overrides of the command line, and do `task` with the result.

    Args:
        task: Given the dataclass, and the same as Hydra composed it; returns the exit code.
        config_name: The primary configuration.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    from launch.overrides import check_overrides, explained
    from launch.schema import register
    from launch.sweep.plugins import register_launchers

    @hydra.main(version_base="1.3", config_path="../conf", config_name=config_name)
    def composed(settings: "DictConfig") -> None:
        try:
            config = OmegaConf.to_object(settings)
        except ValueError as error:  # raised by the range checks of the config dataclasses
            raise ConfigError(str(error)) from error
        if code := task(config, settings):
            sys.exit(code)

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach `errors_explained` instead of Hydra's own handler
    register()
    register_launchers()
    with errors_explained():
        check_overrides(sys.argv[1:], config_name=config_name)
        try:
            composed()
        except HydraException as error:  # what only several settings of a sweep together get wrong
            raise explained(error, config_name=config_name) from error
