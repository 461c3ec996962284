"""`delta-doctor OVERRIDES`: what will work on this machine and what will not, and what to do about it.

Takes the overrides of `delta-train`, examines whether such a run can work, and ends with 0 if it can and 2 if not.
`--json` prints one JSON object; `--fast` leaves out what has to start processes.
"""

import os
import sys

from omegaconf import DictConfig

from delta.errors import ConfigError
from launch.command import EXIT_USER_ERROR, errors_explained, run_configured
from launch.overrides import MULTIRUN
from workers.controller.config import TrainConfig
from workers.signals import Ended, end_on_signals

FAST, JSON = "--fast", "--json"


def doctor(config: TrainConfig, *, fast: bool, as_json: bool) -> int:
    """Examine, print, and return the exit code; progress goes to standard error."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from launch.doctor import report
    from launch.doctor.catalogue import LANES
    from launch.doctor.check import Check
    from launch.doctor.lanes import Round

    checks: list[Check] = []
    examined = Round(LANES, config, fast=fast)
    screen = Console(stderr=True, highlight=False)
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task("checking")
        for check in examined.checks():
            checks.append(check)
            running = ", ".join(examined.running)
            progress.update(task, description=f"{len(checks)} of {examined.total} checks done; {running}")
    checks = examined.in_order(checks)
    if as_json:
        sys.stdout.write(report.as_json(checks) + "\n")
    else:
        terminal = Console(highlight=False)
        report.show(checks, terminal if terminal.is_terminal else Console(highlight=False, width=report.PIPE_WIDTH))
    return 0 if report.can_run(checks) else EXIT_USER_ERROR


def main() -> None:
    """Entry point."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    fast, as_json = FAST in sys.argv, JSON in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument not in (FAST, JSON)]
    with errors_explained():
        if set(arguments) & set(MULTIRUN):
            raise ConfigError(
                "delta-doctor examines one run: leave out --multirun, and give one value of each setting."
            )
    # Of an experiment that is a sweep, what its members have in common.
    sys.argv[1:] = [*arguments, "hydra.mode=RUN"]

    def task(config: TrainConfig, _: DictConfig) -> int:
        return doctor(config, fast=fast, as_json=as_json)

    end_on_signals()
    try:
        run_configured(task, config_name="train")
    except Ended as ended:
        sys.exit(128 + ended.signal)


if __name__ == "__main__":
    main()
