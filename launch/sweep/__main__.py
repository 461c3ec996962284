"""What came of a sweep or of a run: `python -m launch.sweep sweep=FOLDER`, console script `delta-report`."""

import sys
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from delta.errors import DataError
from launch.command import run_configured
from launch.sweep.config import ReportConfig


def report(config: ReportConfig, _: DictConfig) -> int:
    """Show and write what is asked for; the exit code."""
    console = Console(width=None if sys.stdout.isatty() else 160)  # a pipe has no width: do not fold tables for it
    if config.run:
        _on_run(Path(config.run), console)
    else:
        _on_sweep(config, console)
    return 0


def _on_sweep(config: ReportConfig, console: Console) -> None:
    from launch.sweep.report import report_on, show, write

    folder = Path(config.sweep)
    found = report_on(folder, threshold=config.threshold, baseline=config.baseline)
    show(found, console)
    console.print(f"{', '.join(write(found))}: in {folder}", markup=False, highlight=False)


def _on_run(folder: Path, console: Console) -> None:
    """What a run says when it ends.

    Raises:
        DataError: It has not ended, or is none.
    """
    from launch import report
    from launch.run_folder import SETTINGS
    from launch.sweep.record import SWEEP
    from launch.sweep.state import steps_done, steps_wanted
    from workers.controller.starting_point import SUMMARY

    if (folder / SWEEP).exists():
        raise DataError(f"{folder} is the folder of a sweep, not of a run: delta-report sweep={folder} reports on it.")
    if not (folder / SETTINGS).exists():
        raise DataError(f"{folder} holds no run: expected a folder with config.yaml, such as runs/seed1.")
    if not (folder / SUMMARY).exists():
        raise DataError(
            f"{folder} is not complete: {steps_done(folder)} of {steps_wanted(folder)} steps are done, and the report "
            "is made after the last. The command that started it goes on with it."
        )
    report.show(folder, console)


def main() -> None:
    """Entry point."""
    run_configured(report, config_name="report")


if __name__ == "__main__":
    main()
